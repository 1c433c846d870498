// What this x86-64 processor and its operating system can do. (Compilers' own __builtin_cpu_supports needs a runtime library that
// not every one of them links.)
#pragma once
#include <cpuid.h>
#include <stdint.h>

static inline int processor_has(uint32_t leaf7_ebx, uint32_t leaf7_ecx, uint32_t saved) {
    uint32_t a, b, c, d, low, high;
    const uint32_t fma = 1u << 12, osxsave = 1u << 27;
    if (!__get_cpuid(1, &a, &b, &c, &d) || ~c & (fma | osxsave))
        return 0;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0)); // the registers that the system saves
    if (~low & saved || !__get_cpuid_count(7, 0, &a, &b, &c, &d))
        return 0;
    return !(~b & leaf7_ebx || ~c & leaf7_ecx);
}

enum { AVX2 = 1u << 5, BMI2 = 1u << 8, AVX512_F_DQ = 3u << 16, AVX512_BW = 1u << 30, VNNI = 1u << 11 };
#define AVX512_VL (1u << 31)

static inline int processor_has_avx2(void) { return processor_has(AVX2 | BMI2, 0, 0x06); }
static inline int processor_has_avx512_vnni(void) {
    return processor_has(AVX2 | BMI2 | AVX512_F_DQ | AVX512_BW | AVX512_VL, VNNI, 0xe6);
}
