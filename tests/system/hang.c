/* Preloaded: a disk whose flush hangs while a file is there. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <unistd.h>

static void hang(void)
{
    while (access("/var/lib/tombolo/hang", F_OK) == 0)
        usleep(50000);
}

int fdatasync(int fd)
{
    hang();
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    return real(fd);
}
