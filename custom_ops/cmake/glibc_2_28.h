// Included before every source: keeps the library loadable with glibc 2.28, as onnxruntime is
// (manylinux_2_28).
//
// glibc 2.29 gave some functions of <math.h> new versions that no longer set errno. The linker
// takes the newest that the building machine has; the first ones compute the same and are in every
// glibc.
#pragma once

#if defined(__linux__)
#include <features.h>
#endif

#if defined(__GLIBC__) && defined(__x86_64__)
#define I2F_FIRST_VERSION "GLIBC_2.2.5"
#elif defined(__GLIBC__) && defined(__aarch64__)
#define I2F_FIRST_VERSION "GLIBC_2.17"
#endif

#ifdef I2F_FIRST_VERSION
__asm__(".symver exp, exp@" I2F_FIRST_VERSION);
__asm__(".symver exp2, exp2@" I2F_FIRST_VERSION);
__asm__(".symver log, log@" I2F_FIRST_VERSION);
__asm__(".symver log2, log2@" I2F_FIRST_VERSION);
__asm__(".symver pow, pow@" I2F_FIRST_VERSION);
#endif
