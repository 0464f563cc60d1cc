// simt_test FOLDER: opcodes against host formulas, the driver API, and the seeded defects of the kernels whose PTX lies in FOLDER.
#include <cstdio>
#include "test.h"

int main(int count, char** arguments) {
  if (count != 2) {
    fprintf(stderr, "simt_test FOLDER\n");
    return 2;
  }
  open_device();
  test_opcodes();
  test_driver();
  test_defects(arguments[1]);
  printf("%d checks, %d failed\n", checks, failures);
  return failures != 0;
}
