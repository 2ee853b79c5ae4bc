/* A PKCS #11 module that is SoftHSM's, and can be made to hang, to be pulled and to count.
 *
 * Beside it lie softhsm2.conf, which it names to SoftHSM, and, if a test wants that:
 *   wedged   C_Sign does not come back while this is there
 *   pulled   the token is gone: C_Sign and C_GetSessionInfo say so, and no slot has a token
 *   logins   each C_Login appends a line
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef unsigned long rv;
typedef rv (*any)();
enum { GET_SLOT_LIST = 4, GET_SESSION_INFO = 15, LOGIN = 18, SIGN = 43, FUNCTIONS = 68 };
enum { OK = 0, DEVICE_REMOVED = 0x32 };

static struct list {
    unsigned char version[2];
    any functions[FUNCTIONS];
} own, *theirs;
static char folder[4096];

static const char *beside(const char *name) {
    static __thread char path[4200];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static int there(const char *name) { return access(beside(name), F_OK) == 0; }

static rv slot_list(unsigned char present, unsigned long *slots, unsigned long *count) {
    if (there("pulled")) {
        *count = 0;
        return OK;
    }
    return theirs->functions[GET_SLOT_LIST](present, slots, count);
}

static rv session_info(unsigned long session, void *info) {
    return there("pulled") ? DEVICE_REMOVED : theirs->functions[GET_SESSION_INFO](session, info);
}

static rv login(unsigned long session, unsigned long user, unsigned char *pin, unsigned long length) {
    int file = open(beside("logins"), O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (file >= 0) {
        if (write(file, "login\n", 6) < 0) abort();
        close(file);
    }
    return theirs->functions[LOGIN](session, user, pin, length);
}

static rv sign(unsigned long session, void *data, unsigned long length, void *signature, unsigned long *of) {
    while (there("wedged")) usleep(20000);
    return there("pulled") ? DEVICE_REMOVED : theirs->functions[SIGN](session, data, length, signature, of);
}

rv C_GetFunctionList(struct list **list) {
    Dl_info info;
    if (!dladdr((void *)C_GetFunctionList, &info)) return 5;
    snprintf(folder, sizeof folder, "%s", info.dli_fname);
    *strrchr(folder, '/') = 0;
    setenv("SOFTHSM2_CONF", beside("softhsm2.conf"), 1);
    void *library = dlopen("libsofthsm2.so", RTLD_NOW);
    if (!library) library = dlopen("/usr/lib/softhsm/libsofthsm2.so", RTLD_NOW);
    if (!library) return 5;
    rv (*get)(struct list **) = (rv (*)(struct list **))dlsym(library, "C_GetFunctionList");
    rv result = get(&theirs);
    if (result != OK) return result;
    own = *theirs;
    own.functions[GET_SLOT_LIST] = (any)slot_list;
    own.functions[GET_SESSION_INFO] = (any)session_info;
    own.functions[LOGIN] = (any)login;
    own.functions[SIGN] = (any)sign;
    *list = &own;
    return OK;
}
