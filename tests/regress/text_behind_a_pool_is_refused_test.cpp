// A dump with something behind its </superblock> was refused, and had been restored all the same:
// the pool's end was sent before the text's end was seen. Found by the fuzz target "restore".
#include <gtest/gtest.h>

#include "io/sparse_image.h"
#include "support/matchers.h"
#include "support/round_trip.h"

namespace uthin {
namespace {

constexpr std::string_view pool_text =
    "<superblock uuid=\"\" time=\"0\" transaction=\"0\" version=\"2\" data_block_size=\"128\" "
    "nr_data_blocks=\"10\">\n</superblock>\n";

io::image_device blank_image() {
    return io::image_device("image", io::sparse_image(64 * metadata_block_size_bytes));
}

TEST(TextBehindAPool, IsRefusedAndLeavesNoPool) {
    for (const char* more : {"<device>", "</superblock>", "text", "<superblock", "<!--"}) {
        auto image = blank_image();
        EXPECT_THAT(test::restore_xml(std::string(pool_text) + more, image),
                    test::HasCode(error_code::invalid_argument))
            << more;
        EXPECT_FALSE(test::is_accepted(image).value_or(false)) << more;
    }
}

TEST(TextBehindAPool, OfWhiteSpaceAndCommentsIsNone) {
    auto image = blank_image();
    ASSERT_OK(test::restore_xml(std::string(pool_text) + " \n<!-- the end -->\n", image));
    ASSERT_OK_AND_ASSIGN(const bool accepted, test::is_accepted(image));
    EXPECT_TRUE(accepted);
}

}  // namespace
}  // namespace uthin
