# cython: language_level=3
"""What this processor can execute, and how the kernels were compiled."""

cdef extern from *:
    """
    #if defined(__x86_64__) && defined(_MSC_VER)
    /* clang-cl links no runtime of its own, where __builtin_cpu_supports lives: ask the processor, and whether the system keeps the wide
       registers (XCR0, bits 1 and 2). */
    #include <cpuid.h>
    static int ruvattn_has_v3(void) {
        unsigned int a, b, c, d, low, high;
        if (!__get_cpuid(1, &a, &b, &c, &d) || (c & (1u << 12 | 1u << 23 | 1u << 27 | 1u << 28)) != (1u << 12 | 1u << 23 | 1u << 27 | 1u << 28))
            return 0;                                       /* fma, popcnt, osxsave, avx */
        __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
        return (low & 6) == 6 && __get_cpuid_count(7, 0, &a, &b, &c, &d)
            && (b & (1u << 3 | 1u << 5 | 1u << 8)) == (1u << 3 | 1u << 5 | 1u << 8);      /* bmi, avx2, bmi2 */
    }
    #elif defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
    static int ruvattn_has_v3(void) {
        __builtin_cpu_init();
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi")
            && __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("popcnt");
    }
    #else
    static int ruvattn_has_v3(void) { return 0; }
    #endif
    #if defined(__clang__)
    #define RUVATTN_COMPILER "clang " __clang_version__
    #elif defined(__GNUC__)
    #define RUVATTN_COMPILER "gcc " __VERSION__
    #else
    #define RUVATTN_COMPILER "unknown"
    #endif
    #ifndef RUVATTN_FLAGS
    #define RUVATTN_FLAGS ""
    #endif
    """
    bint ruvattn_has_v3()
    const char *RUVATTN_COMPILER
    const char *RUVATTN_FLAGS

COMPILER = RUVATTN_COMPILER.decode()
FLAGS = RUVATTN_FLAGS.decode()


def supports(str isa not None):
    """Whether this processor can run the build of an instruction set: "scalar", "baseline" or "v3"."""
    if isa == "v3":
        return bool(ruvattn_has_v3())
    return isa in ("scalar", "baseline")
