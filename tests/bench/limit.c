/* The kernel's limit for one box: what a C program needs for the same cycle, and nothing else.
 *
 * clone3 of five namespaces into a v2 cgroup where there is one, v1 cgroups with memory, cpu and pids limits
 * where those are mounted, private /tmp, /var/tmp and /dev/shm, /proc, exec of PROGRAM, reap, remove.
 *
 *   limit CYCLES PROGRAM SCRATCH|+SCRATCH V2DIR[:FILE=VALUE[,FILE=VALUE]...]|- [V1DIR[:FILE=VALUE...]]...
 *
 * SCRATCH/tmp and SCRATCH/vartmp are what is mounted on /tmp and /var/tmp. With a "+" a directory with those
 * two in it is made beneath SCRATCH and removed each cycle, and shown to the job without its neighbours.
 * V2DIR and V1DIR are directories in which a cgroup is made and removed each cycle. Prints one line a cycle:
 * microseconds. Needs root.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static void put(const char *dir, const char *file, const char *value)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", dir, file);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, value, strlen(value)) < 0)
        die(path);
    close(fd);
}

/* "DIR:FILE=VALUE,..." : make DIR/limit-bench, set the files, leave its path in made */
static void make_cgroup(const char *spec, char *made, size_t size)
{
    char copy[2048], *save = NULL;
    snprintf(copy, sizeof copy, "%s", spec);
    char *files = strchr(copy, ':');
    if (files)
        *files++ = 0;
    snprintf(made, size, "%s/limit-bench", copy);
    if (mkdir(made, 0755) && errno != EEXIST)
        die(made);
    for (char *f = files ? strtok_r(files, ",", &save) : NULL; f; f = strtok_r(NULL, ",", &save)) {
        char *value = strchr(f, '=');
        *value++ = 0;
        put(made, f, value);
    }
}

static const char *INSIDE[] = {"", "/tmp", "/vartmp"};

static void make_scratch(const char *scratch)
{
    char path[4096];
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s%s", scratch, INSIDE[i]);
        if (mkdir(path, 01777) || chown(path, 65534, 65534))
            die(path);
    }
}

static void remove_scratch(const char *scratch)
{
    char path[4096];
    for (int i = 2; i >= 0; i--) {
        snprintf(path, sizeof path, "%s%s", scratch, INSIDE[i]);
        if (rmdir(path))
            die(path);
    }
}

/* A tmpfs over the directory that holds it, and in that the scratch directory alone */
static void show_alone(const char *scratch, const char *parent)
{
    char path[4096];
    int fd = open(scratch, O_PATH | O_DIRECTORY | O_CLOEXEC);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (fd < 0 || mount("tmpfs", parent, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755") || mkdir(scratch, 0700) ||
        mount(path, scratch, NULL, MS_BIND, NULL))
        die(scratch);
    close(fd);
}

static void child(char *program, const char *scratch, const char *parent, char made[][4096], int v1)
{
    char path[4200];
    for (int i = 0; i < v1; i++)
        put(made[i], "cgroup.procs", "0");
    if (mount("none", "/", NULL, MS_REC | MS_SLAVE, NULL))
        die("slave");
    const char *dirs[] = {"/tmp", "/var/tmp"}, *names[] = {"tmp", "vartmp"};
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/%s", scratch, names[i]);
        if (mount(path, dirs[i], NULL, MS_BIND, NULL))
            die(path);
    }
    if (mount("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777"))
        die("/dev/shm");
    if (parent)
        show_alone(scratch, parent);
    if (mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL))
        die("/proc");
    char *argv[] = {program, NULL}, *env[] = {NULL};
    execve(program, argv, env);
    die(program);
}

static double cycle(char *program, const char *scratch, const char *v2, char **specs, int v1)
{
    char made[16][4096], unified[4096], fresh[4096];
    const char *parent = scratch[0] == '+' ? scratch + 1 : NULL;
    struct timespec a, b;
    struct clone_args args = {
        .flags = CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET, .exit_signal = SIGCHLD};
    int dirfd = -1, status;
    clock_gettime(CLOCK_MONOTONIC, &a);
    if (parent) {
        snprintf(fresh, sizeof fresh, "%s/limit-bench", parent);
        make_scratch(scratch = fresh);
    }
    if (v2) {
        make_cgroup(v2, unified, sizeof unified);
        dirfd = open(unified, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = (uint64_t)dirfd;
    }
    for (int i = 0; i < v1; i++)
        make_cgroup(specs[i], made[i], sizeof made[i]);
    pid_t pid = (pid_t)syscall(SYS_clone3, &args, sizeof args);
    if (pid < 0)
        die("clone3");
    if (pid == 0)
        child(program, scratch, parent, made, v1);
    if (waitpid(pid, &status, 0) != pid || status)
        die("the job failed");
    for (int i = 0; i < v1; i++)
        if (rmdir(made[i]))
            die(made[i]);
    if (v2) {
        close(dirfd);
        if (rmdir(unified))
            die(unified);
    }
    if (parent)
        remove_scratch(scratch);
    clock_gettime(CLOCK_MONOTONIC, &b);
    return (double)(b.tv_sec - a.tv_sec) * 1e6 + (double)(b.tv_nsec - a.tv_nsec) / 1e3;
}

int main(int argc, char **argv)
{
    umask(0);
    if (argc < 5 || argc > 20) {
        fprintf(stderr, "usage: limit CYCLES PROGRAM [+]SCRATCH V2DIR[:FILE=VALUE,...]|- [V1DIR[:FILE=VALUE,...]]...\n");
        return 2;
    }
    const char *v2 = strcmp(argv[4], "-") ? argv[4] : NULL;
    for (int n = atoi(argv[1]); n > 0; n--)
        printf("%.1f\n", cycle(argv[2], argv[3], v2, argv + 5, argc - 5));
    return 0;
}
