/* Preloaded: reading a file or listing a folder fails with EIO while its path contains one of the lines of the file
 * that TOMBOLO_TEST_UNREADABLE names, or ends with it if a $ stands behind it. Changes to that file count at once; one that
 * is not there makes nothing fail. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int is_unreadable(int descriptor) {
    const char *control = getenv("TOMBOLO_TEST_UNREADABLE");
    char name[64], path[4096], lines[4096];
    if (control == NULL)
        return 0;
    snprintf(name, sizeof name, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(name, path, sizeof path - 1);
    if (length <= 0)
        return 0;
    path[length] = 0;
    int file = syscall(SYS_openat, AT_FDCWD, control, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return 0;
    length = syscall(SYS_read, file, lines, sizeof lines - 1);
    syscall(SYS_close, file);
    lines[length > 0 ? length : 0] = 0;
    char *rest = lines, *line;
    while ((line = strsep(&rest, "\n")) != NULL) {
        size_t part = strlen(line), whole = strlen(path);
        if (part > 1 && line[part - 1] == '$') {
            part--;
            if (whole >= part && memcmp(path + whole - part, line, part) == 0)
                return 1;
        } else if (part > 0 && strstr(path, line) != NULL)
            return 1;
    }
    return 0;
}

ssize_t read(int descriptor, void *buffer, size_t length) {
    static ssize_t (*next)(int, void *, size_t);
    if (next == NULL)
        next = (ssize_t (*)(int, void *, size_t))dlsym(RTLD_NEXT, "read");
    if (is_unreadable(descriptor)) {
        errno = EIO;
        return -1;
    }
    return next(descriptor, buffer, length);
}

ssize_t pread64(int descriptor, void *buffer, size_t length, off64_t offset) {
    static ssize_t (*next)(int, void *, size_t, off64_t);
    if (next == NULL)
        next = (ssize_t (*)(int, void *, size_t, off64_t))dlsym(RTLD_NEXT, "pread64");
    if (is_unreadable(descriptor)) {
        errno = EIO;
        return -1;
    }
    return next(descriptor, buffer, length, offset);
}

struct dirent64 *readdir64(DIR *folder) {
    static struct dirent64 *(*next)(DIR *);
    if (next == NULL)
        next = (struct dirent64 * (*)(DIR *)) dlsym(RTLD_NEXT, "readdir64");
    if (is_unreadable(dirfd(folder))) {
        errno = EIO;
        return NULL;
    }
    return next(folder);
}
