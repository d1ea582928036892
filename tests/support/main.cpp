// Every test program prints its seed first; UTHIN_SEED=N repeats a run.
#include <gtest/gtest.h>

#include <cstdio>

#include "support/seed.h"

int main(int argc, char** argv) {
    std::printf("seed: UTHIN_SEED=%llu\n", static_cast<unsigned long long>(uthin::test::seed()));
    std::fflush(stdout);
    ::testing::InitGoogleTest(&argc, argv);
    return RUN_ALL_TESTS();
}
