/* N sleeping processes, for what grows with their number: many N */
#include <stdlib.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    for (int n = argc > 1 ? atoi(argv[1]) : 1; n > 1; n--)
        if (fork() == 0)
            break;
    for (;;)
        pause();
}
