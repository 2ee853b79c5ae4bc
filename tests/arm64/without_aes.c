/* Preloaded into a program on arm64: it sees a processor without the cryptographic instructions, as that of a Raspberry Pi 4,
 * and takes what it has for such a one. */
#define _GNU_SOURCE
#include <asm/hwcap.h>
#include <dlfcn.h>
#include <sys/auxv.h>

unsigned long getauxval(unsigned long type) {
    unsigned long (*next)(unsigned long) = (unsigned long (*)(unsigned long))dlsym(RTLD_NEXT, "getauxval");
    unsigned long value = next(type);
    if (type == AT_HWCAP)
        value &= ~(unsigned long)(HWCAP_AES | HWCAP_PMULL | HWCAP_SHA1 | HWCAP_SHA2 | HWCAP_SHA3 | HWCAP_SHA512 | HWCAP_SM3 | HWCAP_SM4);
    return value;
}
