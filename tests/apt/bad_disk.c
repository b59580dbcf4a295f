/* A disk that fails, for one file: LD_PRELOAD this and name the fault in the environment. A child
 * that reads videos gets no variables but those whose names are allowed; these are.
 *
 * SEEDVR2_TEST_DISK_FILE     absolute path of the file; the others are read as usual
 * SEEDVR2_TEST_DISK_ERROR    errno of the read that fails, "short" (every read gives at most 777
 *                            bytes) or "slow" (every read takes .._READ milliseconds longer)
 * SEEDVR2_TEST_DISK_READ     which read of a reader fails, counted from 1
 * SEEDVR2_TEST_DISK_READER   which reader it is, counted from 1 as they come to read the file: a
 *                            process, from its first read to its next close of the file
 * SEEDVR2_TEST_DISK_MARK     a file that gets a line for every reader, the id of its process, and
 *                            whose name with ".done" exists when the read has failed
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static long reader, count;

static int concerns(int handle) {
    const char *wanted = getenv("SEEDVR2_TEST_DISK_FILE");
    char link[64], path[PATH_MAX];
    ssize_t length;
    if (!wanted)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", handle);
    length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return !strcmp(path, wanted);
}

/* The number of this reader among all; a line has LINE characters. */
enum { LINE = 11 };
static long enter(const char *mark) {
    char line[LINE + 1];
    struct stat status;
    int handle = open(mark, O_WRONLY | O_CREAT | O_APPEND, 0600);
    long number = 0;
    snprintf(line, sizeof line, "%010d\n", (int)getpid());
    if (handle >= 0) {
        if (write(handle, line, LINE) == LINE && !fstat(handle, &status))
            number = status.st_size / LINE;
        close(handle);
    }
    return number;
}

/* 0, or the errno with which this read fails; *most is the number of bytes it may give. */
static int fault(int handle, size_t *most) {
    const char *what = getenv("SEEDVR2_TEST_DISK_ERROR"), *mark = getenv("SEEDVR2_TEST_DISK_MARK");
    const char *which = getenv("SEEDVR2_TEST_DISK_READER"), *when = getenv("SEEDVR2_TEST_DISK_READ");
    char done[PATH_MAX];
    int number = 0, saved = errno;
    if (!what || !mark || !concerns(handle)) {
        errno = saved;
        return 0;
    }
    pthread_mutex_lock(&lock);
    if (!reader)
        reader = enter(mark);
    count++;
    if (!strcmp(what, "short")) {
        if (*most > 777)
            *most = 777;
    } else if (!strcmp(what, "slow")) {
        usleep(1000 * atol(when));
    } else if (reader == atol(which) && count == atol(when)) {
        number = atoi(what);
        snprintf(done, sizeof done, "%s.done", mark);
        close(open(done, O_WRONLY | O_CREAT, 0600));
    }
    pthread_mutex_unlock(&lock);
    errno = saved;
    return number;
}

ssize_t read(int handle, void *buffer, size_t size) {
    static ssize_t (*real)(int, void *, size_t);
    int number = fault(handle, &size);
    if (!real)
        real = dlsym(RTLD_NEXT, "read");
    if (number) {
        errno = number;
        return -1;
    }
    return real(handle, buffer, size);
}

ssize_t pread64(int handle, void *buffer, size_t size, off64_t place) {
    static ssize_t (*real)(int, void *, size_t, off64_t);
    int number = fault(handle, &size);
    if (!real)
        real = dlsym(RTLD_NEXT, "pread64");
    if (number) {
        errno = number;
        return -1;
    }
    return real(handle, buffer, size, place);
}

int close(int handle) {
    static int (*real)(int);
    if (!real)
        real = dlsym(RTLD_NEXT, "close");
    if (concerns(handle)) {
        pthread_mutex_lock(&lock);
        reader = count = 0;
        pthread_mutex_unlock(&lock);
    }
    return real(handle);
}
