/*
 * A kernel whose clocks a test sets: LD_PRELOAD this, with FAKE_KERNEL naming a file that holds one struct kernel.
 *
 * Wall clock, CLOCK_BOOTTIME, what adjtimex() says of synchronisation, and the boot id come from that file, which is
 * mapped, so that a change by the test is in force at once; also whether the disk takes the clock's file. CLOCK_MONOTONIC
 * stays as it is: timers of the program under test take their real time.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/timex.h>
#include <time.h>
#include <unistd.h>

struct kernel {
    int64_t wall_ms;     /* added to CLOCK_REALTIME */
    int64_t boottime_ms; /* added to CLOCK_BOOTTIME */
    int64_t synchronised;
    int64_t disk; /* under the clock's file: 1 = hangs, 2 = is full */
    char boot_id[40]; /* with its newline */
};

static const volatile struct kernel *kernel;

__attribute__((constructor)) static void map(void)
{
    const char *path = getenv("FAKE_KERNEL");
    int file = path ? syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0) : -1;
    if (file < 0)
        return;
    void *there = mmap(NULL, sizeof *kernel, PROT_READ, MAP_SHARED, file, 0);
    if (there != MAP_FAILED)
        kernel = there;
    close(file);
}

static void add(struct timespec *time, int64_t milliseconds)
{
    int64_t nanoseconds = time->tv_nsec + milliseconds % 1000 * 1000000;
    time->tv_sec += milliseconds / 1000;
    if (nanoseconds < 0) {
        time->tv_sec -= 1;
        nanoseconds += 1000000000;
    }
    time->tv_sec += nanoseconds / 1000000000;
    time->tv_nsec = nanoseconds % 1000000000;
}

int clock_gettime(clockid_t clock, struct timespec *time)
{
    int result = syscall(SYS_clock_gettime, clock, time);
    if (result == 0 && kernel && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        add(time, kernel->wall_ms);
    if (result == 0 && kernel && clock == CLOCK_BOOTTIME)
        add(time, kernel->boottime_ms);
    return result;
}

time_t time(time_t *result)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (result)
        *result = now.tv_sec;
    return now.tv_sec;
}

int adjtimex(struct timex *timex)
{
    int result = syscall(SYS_adjtimex, timex);
    if (result < 0 || !kernel)
        return result;
    if (kernel->synchronised) {
        timex->status &= ~STA_UNSYNC;
        return TIME_OK;
    }
    timex->status |= STA_UNSYNC;
    return TIME_ERROR;
}

static int open_boot_id(const char *path)
{
    if (!kernel || strcmp(path, "/proc/sys/kernel/random/boot_id") != 0)
        return -1;
    int file = syscall(SYS_memfd_create, "boot_id", MFD_CLOEXEC);
    if (file >= 0) {
        const char *boot_id = (const char *)kernel->boot_id;
        (void)!write(file, boot_id, strlen(boot_id));
        lseek(file, 0, SEEK_SET);
    }
    return file;
}

static int is_clock(int file)
{
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    path[length > 0 ? length : 0] = 0;
    return strstr(path, "/.clock.") != NULL;
}

int fsync(int file)
{
    while (kernel && kernel->disk == 1 && is_clock(file))
        usleep(10000);
    if (kernel && kernel->disk == 2 && is_clock(file)) {
        errno = ENOSPC;
        return -1;
    }
    return syscall(SYS_fsync, file);
}

#define OPEN(name)                                                        \
    int name(const char *path, int flags, ...)                            \
    {                                                                     \
        va_list arguments;                                                \
        va_start(arguments, flags);                                       \
        int mode = va_arg(arguments, int);                                \
        va_end(arguments);                                                \
        int file = open_boot_id(path);                                    \
        return file >= 0 ? file : syscall(SYS_openat, AT_FDCWD, path, flags, mode); \
    }

OPEN(open)
OPEN(open64)
