/* An LD_PRELOAD library: the disk of the process under test fails as a file says, for as long as it says so.
 *
 * TOMBOLO_DISK_FAULTS names the file. Each of its lines is `OP ERRNO PART [FROM TO]`: calls of kind OP (open, read, write at a
 * place, append, sync, rename, remove) on files whose path contains PART fail with ERRNO; reads and writes only where they touch the bytes FROM up to TO, if given.
 * `cut` instead of a number: the call gets zeros. `wait`: it waits until no line says so any more. `kill` instead of it, with N in place of FROM: the Nth such call, counted from
 * the first that met a `kill` line, ends the process as kill -9 does, before it is done. OP `any` is every call but a read.
 * The file is read at each call, so that a test can change it as it goes. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define ZEROS (-1)
#define WAITS (-2)

/* Calls that met a `kill` line. */
static long long met;

/* The error of this call; 0 if it is to succeed. */
static int fault_now(const char *op, const char *path, long long from, long long to) {
    const char *file = getenv("TOMBOLO_DISK_FAULTS");
    char text[4096], word[16], part[512], number[16];
    ssize_t length;
    int fd, found = 0;
    if (!file || !path)
        return 0;
    fd = REAL(open)(file, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    length = REAL(read)(fd, text, sizeof text - 1);
    close(fd);
    text[length > 0 ? length : 0] = 0;
    for (char *rest, *line = strtok_r(text, "\n", &rest); line && !found; line = strtok_r(NULL, "\n", &rest)) {
        long long begin = 0, end = 1LL << 62;
        if (sscanf(line, "%15s %15s %511s %lld %lld", word, number, part, &begin, &end) < 3 || !strstr(path, part) ||
            (strcmp(word, op) && (strcmp(word, "any") || !strcmp(op, "read"))))
            continue;
        if (!strcmp(number, "kill")) {
            if (__sync_add_and_fetch(&met, 1) == begin)
                kill(getpid(), SIGKILL);
        } else if (from < end && to > begin)
            found = !strcmp(number, "cut") ? ZEROS : !strcmp(number, "wait") ? WAITS : atoi(number);
    }
    return found;
}

static int fault(const char *op, const char *path, long long from, long long to) {
    int found;
    while ((found = fault_now(op, path, from, to)) == WAITS)
        usleep(5000);
    return found;
}

static int fault_of(const char *op, int fd, long long from, long long to) {
    char link[64], path[4096];
    ssize_t length;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return fault(op, path, from, to);
}

#define FAIL_IF(code)                                                                                                  \
    do {                                                                                                               \
        int error_ = (code);                                                                                           \
        if (error_ > 0) {                                                                                              \
            errno = error_;                                                                                            \
            return -1;                                                                                                 \
        }                                                                                                              \
    } while (0)

static mode_t mode_of(int flags, va_list rest) {
    return flags & (O_CREAT | O_TMPFILE) ? (mode_t)va_arg(rest, int) : 0;
}

#define OPEN(name)                                                                                                     \
    int name(const char *path, int flags, ...) {                                                                       \
        va_list rest;                                                                                                  \
        va_start(rest, flags);                                                                                         \
        mode_t mode = mode_of(flags, rest);                                                                            \
        va_end(rest);                                                                                                  \
        FAIL_IF(fault("open", path, 0, 1));                                                                            \
        return REAL(name)(path, flags, mode);                                                                          \
    }
OPEN(open)
OPEN(open64)

#define READ(name, offset_t)                                                                                           \
    ssize_t name(int fd, void *buffer, size_t count, offset_t offset) {                                                \
        int code = fault_of("read", fd, offset, offset + (long long)count);                                            \
        FAIL_IF(code);                                                                                                 \
        ssize_t done = REAL(name)(fd, buffer, count, offset);                                                          \
        if (code == ZEROS && done > 0)                                                                                 \
            memset(buffer, 0, done);                                                                                   \
        return done;                                                                                                   \
    }
READ(pread, off_t)
READ(pread64, off64_t)

#define WRITE(name, offset_t)                                                                                          \
    ssize_t name(int fd, const void *buffer, size_t count, offset_t offset) {                                          \
        FAIL_IF(fault_of("write", fd, offset, offset + (long long)count));                                             \
        return REAL(name)(fd, buffer, count, offset);                                                                  \
    }
WRITE(pwrite, off_t)
WRITE(pwrite64, off64_t)

ssize_t read(int fd, void *buffer, size_t count) {
    FAIL_IF(fault_of("read", fd, 0, 1LL << 61));
    return REAL(read)(fd, buffer, count);
}

/* A kind of its own, so that a test that names bytes of a file is not met by what goes to its end. */
ssize_t write(int fd, const void *buffer, size_t count) {
    FAIL_IF(fault_of("append", fd, 0, 1));
    return REAL(write)(fd, buffer, count);
}

int rename(const char *from, const char *to) {
    FAIL_IF(fault("rename", to, 0, 1));
    return REAL(rename)(from, to);
}

int unlink(const char *path) {
    FAIL_IF(fault("remove", path, 0, 1));
    return REAL(unlink)(path);
}

int fsync(int fd) {
    FAIL_IF(fault_of("sync", fd, 0, 1));
    return REAL(fsync)(fd);
}

int fdatasync(int fd) {
    FAIL_IF(fault_of("sync", fd, 0, 1));
    return REAL(fdatasync)(fd);
}
