#include <stdexcept>
#include <string>

#include "kernels.hpp"

namespace yearling {

const Kernels& select_kernels(const char* name) {
  const std::string wanted = name;
#if defined(YEARLING_AVX2)
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                        __builtin_cpu_supports("f16c");
  const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") &&
                          __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512vl") &&
                          __builtin_cpu_supports("avx512vnni");
  const bool has_bf16 = has_avx512 && __builtin_cpu_supports("avx512bf16");
  if ((wanted == "auto" || wanted == "avx512_bf16") && has_bf16) return avx512_bf16_kernels();
  if ((wanted == "auto" || wanted == "avx512") && has_avx512) return avx512_kernels();
  if ((wanted == "auto" || wanted == "avx2") && has_avx2) return avx2_kernels();
  if (wanted == "avx512_bf16") {
    throw std::invalid_argument("this processor has no AVX-512 F, BW, VL, VNNI and BF16.");
  }
  if (wanted == "avx512") {
    throw std::invalid_argument("this processor has no AVX-512 F, BW, VL and VNNI.");
  }
  if (wanted == "avx2") throw std::invalid_argument("this processor has no AVX2, FMA and F16C.");
#endif
  if (wanted == "auto" || wanted == "portable") return portable_kernels();
  throw std::invalid_argument("no kernels are named '" + wanted +
                              "'; known: auto, avx512_bf16, avx512 and avx2 (x86-64 builds), "
                              "portable.");
}

}  // namespace yearling
