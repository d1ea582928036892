// Lets one thread at a time run, and decides by a seed which one: what base/scheduled.h stands on.
//
// A schedule is one run of a body with the threads that it starts. In its window - while clients
// are at work - it may take the turn from a thread that could go on at few places chosen in
// advance; wherever a thread waits for another one, or for a device, the next one is drawn anyway.
// In half of the schedules a thread from which the turn was taken is held back: most races need one
// to stand still while another one gets far.
//
// Invariants
//   SH1  The same choice gives the same schedule, as long as the body depends on nothing else.
//   SH2  A thread that sleeps with a timeout wakes by it when nobody else can go on, or when a turn
//        is taken for it; the clock is then what it waited for.
//   SH3  Who is held back goes on while nobody else can, who was last held back after the others;
//        and by chance while somebody spins, perhaps waiting for him.
// Threads   One scheduler for the process. run() is called by its first thread.
// Failures  All wait for each other, or nothing ends: told with the last steps, and the program
//           ends with status 3.
#pragma once

#include <semaphore.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "base/random.h"

namespace uthin::test {

struct schedule_choice {
    std::uint64_t seed = 0;
    // Chances of the window among which the turns taken are chosen; 0: none is taken.
    std::uint64_t horizon = 0;
};

struct schedule_outcome {
    std::uint64_t window_steps = 0;
    std::uint64_t window_chances = 0;  // of taking a turn: some steps are worth more than one
    std::uint64_t trace = 0;           // a hash of who did what in which order in the window
    std::uint32_t turns_taken = 0;
};

class scheduler {
public:
    static constexpr std::uint32_t turns_taken_max = 3;

    static scheduler& instance();

    // `name` is for the messages.
    schedule_outcome run(const schedule_choice& choice, std::string name,
                         const std::function<void()>& body);
    void begin_window();
    void end_window();

    // A device is at work for the calling thread.
    void wait_for_device(const char* what);
    // Ascends with everything that happens.
    [[nodiscard]] std::uint64_t step() const noexcept { return step_; }
    [[nodiscard]] clock& time() noexcept { return clock_; }
    // The last steps, one a line.
    [[nodiscard]] std::string last_steps() const;
    // Of the schedule that runs, or ran last.
    [[nodiscard]] const std::string& name() const noexcept { return name_; }

    // ---- for base/scheduled.h
    void point(const char* what, std::uint64_t chances = 1);
    // Of code without locks, where more depends on the order.
    void lock_free_point();
    void yield();
    [[nodiscard]] std::uint32_t current() const noexcept { return current_; }
    std::size_t start(std::function<void()> body);
    void join(std::size_t task);
    // Until wake() of the same object.
    void block(const void* on);
    void wake(const void* object);
    // The caller sleeps from now on, until one of the calls below or the timeout; it runs on to
    // sleep(). True: not by the timeout.
    void fall_asleep(const void* on, std::optional<std::chrono::nanoseconds> timeout);
    [[nodiscard]] bool sleep();
    void wake_sleeper(const void* on, bool all);

private:
    enum class condition : std::uint8_t { ready, blocked, asleep, done };
    struct task {
        sem_t turn{};
        condition is = condition::done;
        const void* waits_for = nullptr;
        std::optional<std::chrono::nanoseconds> deadline;
        bool timed_out = false;
        std::uint32_t held_back = 0;  // ascends with each one that is; 0: is not
        std::function<void()> body;
        std::thread thread;
    };
    struct step_record {
        std::uint64_t step;
        std::uint32_t task;
        const char* what;
    };
    class virtual_clock final : public clock {
    public:
        [[nodiscard]] std::chrono::nanoseconds monotonic() const override { return now; }
        [[nodiscard]] std::int64_t unix_seconds() const override {
            return std::chrono::duration_cast<std::chrono::seconds>(now).count();
        }
        void sleep_for(std::chrono::nanoseconds duration) override { now += duration; }
        std::chrono::nanoseconds now{0};
    };

    scheduler();
    void choose_turns_to_take(const schedule_choice& choice);
    void note(const char* what, std::uint64_t chances = 1);
    void serve(task& worker);
    // Of the others; the caller may be unable to go on.
    void give_turn_away();
    void switch_to(std::uint32_t next);
    // Of those that are held back least, and not more than that.
    [[nodiscard]] std::optional<std::uint32_t> another_ready(
        std::uint32_t held_back_max = UINT32_MAX);
    [[nodiscard]] std::optional<std::uint32_t> any_ready();
    [[nodiscard]] std::optional<std::uint32_t> drawn_of(std::uint32_t held_back_min,
                                                        std::uint32_t held_back_max);
    [[nodiscard]] std::optional<std::uint32_t> first_to_time_out() const;
    void time_out(std::uint32_t sleeper);
    void take_turn();
    [[noreturn]] void give_up(const char* why) const;

    std::vector<std::unique_ptr<task>> tasks_;
    std::uint32_t count_ = 0;  // of the schedule
    std::uint32_t current_ = 0;
    bool active_ = false;
    bool in_window_ = false;
    std::string name_;
    random_generator random_;
    virtual_clock clock_;
    std::chrono::nanoseconds begun_{0};
    std::uint64_t step_ = 0;
    std::uint64_t first_step_ = 0;
    std::uint64_t window_steps_ = 0;
    std::uint64_t window_chances_ = 0;
    std::uint64_t trace_ = 0;
    std::uint64_t device_odds_ = 0;
    bool holds_back_ = false;
    std::vector<std::uint64_t> turns_to_take_;  // descending chances of the window
    std::uint32_t turns_taken_ = 0;
    std::array<step_record, 512> recent_{};
};

}  // namespace uthin::test
