/* The smallest job: static, so that what is measured is the box and not the dynamic linker. */
int main(void) { return 0; }
