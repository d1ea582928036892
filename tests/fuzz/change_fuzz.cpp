// The writer on any metadata: opened, changed, committed, aborted. Sound metadata stays sound.
#include "fuzz/image_input.h"
#include "support/round_trip.h"
#include "uthin/metadata.h"

namespace uthin::fuzz {
namespace {

class writer {
public:
    writer(metadata& pool, decisions& choose) : pool_(pool), choose_(choose) {}

    // False: the transaction is to be aborted.
    bool step() {
        switch (choose_.below(16)) {
            case 0: return goes_on(pool_.create_thin(any_device()));
            case 1: return goes_on(pool_.create_snap(any_device(), any_device()));
            case 2: return goes_on(pool_.delete_thin(any_device()));
            case 3: return goes_on(pool_.commit());
            case 4: return goes_on(pool_.reserve_metadata_snap());
            case 5: return goes_on(pool_.release_metadata_snap());
            case 6: return goes_on(pool_.resize_data(choose_.below(5'000)));
            case 7: return goes_on(pool_.set_transaction_id(choose_.number(), choose_.number()));
            case 8: return goes_on(pool_.swap_root(any_device(), any_device(), any_device()));
            case 9: return goes_on(pool_.abort());
            case 10: return read();
            default: return map();
        }
    }

private:
    template <class T>
    static bool goes_on(const result<T>& outcome) {
        if (outcome) {
            return true;
        }
        // Refusals change nothing.
        switch (outcome.error().code()) {
            case error_code::already_exists:
            case error_code::not_found:
            case error_code::busy:
            case error_code::invalid_argument:
            case error_code::no_data_space:
            case error_code::out_of_range: return true;
            default: return false;
        }
    }
    device_id any_device() { return device_id(choose_.below(6)); }

    bool read() {
        (void)pool_.list_devices();
        (void)pool_.get_details(any_device());
        (void)pool_.data_space();
        (void)pool_.metadata_space();
        const auto view = pool_.create_view();
        return goes_on(view);
    }
    bool map() {
        const auto device = pool_.open_device(any_device());
        if (!device) {
            return goes_on(device);
        }
        const bool fine = change(**device);
        pool_.close_device(*device);
        return fine;
    }
    bool change(thin_device& device) {
        const virtual_block block(choose_.below(400));
        (void)pool_.find_block(device, block);
        (void)pool_.find_mapped_range(device, {block, block + 100});
        (void)pool_.highest_mapped_block(device);
        if (choose_.below(4) == 0) {
            return goes_on(pool_.remove_range(device, {block, block + choose_.below(300)}));
        }
        const auto data = pool_.alloc_data_block();
        if (!data) {
            return goes_on(data);
        }
        return goes_on(pool_.insert_block(device, block, *data));
    }

    metadata& pool_;
    decisions& choose_;
};

void run(std::span<const std::byte> input) {
    const image_input image = decode_image(input);
    decisions choose(image.parameters);
    const auto device = image.device();
    const bool was_accepted = test::is_accepted(*device).value_or(false);
    constexpr std::uint64_t cache_bytes = 64 * metadata_block_size_bytes;
    auto pool = metadata::open(*device, {.cache_bytes = cache_bytes});
    if (!pool) {
        return;
    }
    writer changes(**pool, choose);
    for (int left = 24; left != 0 && !choose.at_end(); --left) {
        if (!changes.step() && !(*pool)->abort()) {
            require((*pool)->failed(), "an abort that fails leaves fail mode");
            break;
        }
    }
    const auto closed = (*pool)->close();
    pool->reset();
    if (was_accepted) {
        require(require_ok(test::is_accepted(*device), "it is checked"),
                "sound metadata stays sound");
        require(closed || closed.error().code() == error_code::no_metadata_space,
                "sound metadata is closed");
    }
}

std::vector<bytes> seeds() {
    random_generator random(2);
    std::vector<bytes> parameters;
    for (int i = 0; i < 6; ++i) {
        bytes made;
        for (int count = 0; count < 80; ++count) {
            made.push_back(static_cast<std::byte>(random.below(60)));
        }
        parameters.push_back(std::move(made));
    }
    return image_seeds(parameters);
}

const registration made({"change", run, seeds, mutated_image});

}  // namespace
}  // namespace uthin::fuzz
