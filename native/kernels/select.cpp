#include <stdexcept>
#include <string>

#include "kernels.hpp"

namespace yearling {

const Kernels& select_kernels(const char* name) {
  const std::string wanted = name;
#if defined(YEARLING_AVX2)
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                        __builtin_cpu_supports("f16c");
  if ((wanted == "auto" || wanted == "avx2") && has_avx2) return avx2_kernels();
  if (wanted == "avx2") throw std::invalid_argument("this processor has no AVX2, FMA and F16C.");
#endif
  if (wanted == "auto" || wanted == "portable") return portable_kernels();
  throw std::invalid_argument("no kernels are named '" + wanted +
                              "'; known: auto, avx2 (x86-64 builds), portable.");
}

}  // namespace yearling
