// What this machine can do at most: the two limits a step is measured against.
#pragma once

#include "pool.hpp"

namespace yearling {

struct MachineRates {
  double bytes_per_second;     // streaming reads, all threads together
  double int8_macs_per_second;  // 8-bit multiply-accumulates of our kernel in the first-level cache
};

// Takes about half a second.
MachineRates measure_machine(Pool& pool);

}  // namespace yearling
