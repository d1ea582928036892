#include "pool/executor.h"

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "base/out_of_memory.h"
#include "support/matchers.h"

namespace uthin::pool_engine {
namespace {

using test::HasCode;
using test::IsOk;

// Writes down what the executor does.
class recording_host final : public executor_host {
public:
    void begin_batch() override { log += "["; }
    result<void> end_batch() override {
        log += "]";
        return std::exchange(batch_end, {});
    }
    void begin_alone() override { log += "<"; }
    result<void> end_alone() override {
        log += ">";
        return {};
    }
    void ran_out_of_memory() noexcept override { batch_end = out_of_memory(); }
    bool prepare_commit() override {
        if (steps == 0) {
            return false;
        }
        --steps;
        log += "p";
        return true;
    }
    result<void> commit() override {
        log += "C";
        changes = false;
        committed_by = std::this_thread::get_id();
        commits.fetch_add(1);
        return std::exchange(commit_end, {});
    }
    bool commit_is_due() override { return changes; }
    std::chrono::nanoseconds idle_time() override { return idle; }
    bool has_changes() override { return changes; }

    std::string log;
    bool changes = false;
    int steps = 0;  // before a commit
    std::chrono::nanoseconds idle = std::chrono::milliseconds(1);
    std::thread::id committed_by;
    std::atomic<int> commits{0};
    result<void> batch_end;
    result<void> commit_end;
};

class letter final : public work {
public:
    letter(recording_host& host, char name, std::vector<next> verdicts = {next::done},
           bool commit = false, bool alone = false)
        : host_(host), name_(name), verdicts_(std::move(verdicts)) {
        wants_commit_ = commit;
        runs_alone_ = alone;
    }
    next run() override {
        host_.log += name_;
        const next verdict = verdicts_.front();
        verdicts_.erase(verdicts_.begin());
        return verdict;
    }
    void published() override { host_.log += '.'; }

private:
    recording_host& host_;
    const char name_;
    std::vector<next> verdicts_;
};

TEST(Executor, PublishesABatchBeforeItTellsTheRequests) {
    recording_host host;
    executor worker(host, 8);
    work_queue queue;
    letter a(host, 'a');
    letter b(host, 'b');
    worker.submit(queue, a);
    EXPECT_OK(worker.execute(queue, b));
    EXPECT_EQ(host.log, "[ab]..");
}

TEST(Executor, TakesTheQueuesInRotation) {
    recording_host host;
    executor worker(host, 2);
    work_queue busy;
    work_queue quiet;
    std::vector<std::unique_ptr<letter>> many;
    for (int i = 0; i < 4; ++i) {
        many.push_back(std::make_unique<letter>(host, 'b'));
        worker.submit(busy, *many.back());
    }
    letter quick(host, 'q');
    EXPECT_OK(worker.execute(quiet, quick));
    EXPECT_EQ(host.log, "[bq]..");
    worker.wait_for(*many.back());
}

TEST(Executor, SlicesLetOthersInBetween) {
    recording_host host;
    executor worker(host, 1);
    work_queue one;
    work_queue two;
    letter sliced(host, 's', {work::next::again, work::next::again, work::next::done});
    letter other(host, 'o');
    worker.submit(one, sliced);
    worker.submit(two, other);
    worker.wait_for(sliced);
    EXPECT_EQ(host.log, "[s].[o].[s].[s].");
}

// Submits `count` letters, each when the one before it was published.
TEST(Executor, ARequestThatFindsNoMemoryEndsWithItsBatch) {
    class hungry final : public work {
    public:
        next run() override { throw std::bad_alloc(); }
    };
    recording_host host;
    executor worker(host, 8);
    work_queue queue;
    hungry first;
    letter second(host, 'b');
    worker.submit(queue, first);
    work_queue other;
    EXPECT_THAT(worker.execute(other, second), HasCode(error_code::out_of_memory));
    EXPECT_THAT(first.outcome(), HasCode(error_code::out_of_memory));
    EXPECT_EQ(host.log, "[b].");
}

class chain final : public work {
public:
    chain(recording_host& host, executor& worker, work_queue& queue, int count)
        : host_(host), worker_(worker), queue_(queue), left_(count) {}
    next run() override {
        host_.log += 'c';
        return next::done;
    }
    void published() override {
        if (left_ > 1) {
            following = std::make_unique<chain>(host_, worker_, queue_, left_ - 1);
            worker_.submit(queue_, *following);
        }
    }

    std::unique_ptr<chain> following;

private:
    recording_host& host_;
    executor& worker_;
    work_queue& queue_;
    const int left_;
};

TEST(Executor, BackgroundWorkGetsASliceNowAndThenWhileRequestsWait) {
    recording_host host;
    executor worker(host, 8);
    work_queue one;
    work_queue two;
    letter sliced(host, 's', {work::next::again, work::next::again, work::next::done});
    chain requests(host, worker, two, 20);
    worker.submit(one, sliced);
    worker.submit(two, requests);
    worker.wait_for(sliced);
    // 'sc', then in each eighth turn a slice.
    std::string expected = "[sc].";
    for (int slice = 0; slice < 2; ++slice) {
        for (std::uint32_t i = 1; i < executor::turns_per_slice; ++i) {
            expected += "[c]";
        }
        expected += "[s].[c]";
    }
    expected.erase(expected.size() - 3);
    EXPECT_EQ(host.log, expected);
}

TEST(Executor, BackgroundWorkIsToldThatARequestWaits) {
    recording_host host;
    executor worker(host, 8);
    work_queue queue;
    letter request(host, 'r');
    class slice final : public work {
    public:
        slice(recording_host& to, executor& by, work_queue& queue, work& request)
            : host_(to), worker_(by), queue_(queue), request_(request) {}
        next run() override {
            EXPECT_FALSE(worker_.should_yield());
            for (int step = 0; step < 100 && !worker_.should_yield(); ++step) {
                host_.log += 's';
                if (step == 1 && !asked_) {
                    asked_ = true;
                    worker_.submit(queue_, request_);
                }
            }
            return worker_.should_yield() ? next::again : next::done;
        }

    private:
        recording_host& host_;
        executor& worker_;
        work_queue& queue_;
        work& request_;
        bool asked_ = false;
    };
    slice sliced(host, worker, queue, request);
    worker.submit(queue, sliced);
    worker.wait_for(request);
    EXPECT_EQ(host.log.substr(0, 7), "[ss][r]");
    worker.wait_for(sliced);
}

TEST(Executor, RequestsGoBetweenTheStepsTowardsACommitBackgroundWorkDoesNot) {
    recording_host host;
    host.steps = 2;
    executor worker(host, 1);
    work_queue one;
    work_queue two;
    letter sliced(host, 's', {work::next::again, work::next::done});
    letter flush(host, 'f', {work::next::done}, true);
    letter request(host, 'r');
    worker.submit(one, sliced);
    worker.submit(two, flush);
    worker.submit(two, request);
    worker.wait_for(sliced);
    EXPECT_EQ(host.log, "[s].[f].p[r].pC[s].");
}

TEST(Executor, WhoWantsACommitIsCompletedByIt) {
    recording_host host;
    executor worker(host, 8);
    work_queue queue;
    letter a(host, 'a', {work::next::done}, true);
    letter b(host, 'b', {work::next::done}, true);
    worker.submit(queue, a);
    EXPECT_OK(worker.execute(queue, b));
    EXPECT_EQ(host.log, "[ab]..C");
    letter c(host, 'c', {work::next::done}, true);
    host.commit_end = fail(error_code::io_error, "x");
    EXPECT_THAT(worker.execute(queue, c), HasCode(error_code::io_error));
}

TEST(Executor, WhoNeedsSpaceRunsAgainAfterACommitAndKnowsIt) {
    recording_host host;
    executor worker(host, 8);
    work_queue queue;
    letter a(host, 'a', {work::next::space, work::next::done});
    EXPECT_FALSE(a.retried());
    EXPECT_OK(worker.execute(queue, a));
    EXPECT_TRUE(a.retried());
    EXPECT_EQ(host.log, "[a].C[a].");
}

TEST(Executor, ABrokenBatchFailsAllItsRequests) {
    recording_host host;
    executor worker(host, 8);
    work_queue queue;
    letter a(host, 'a', {work::next::done}, true);
    letter b(host, 'b');
    worker.submit(queue, a);
    host.batch_end = fail(error_code::corrupt, "x");
    EXPECT_THAT(worker.execute(queue, b), HasCode(error_code::corrupt));
    worker.wait_for(a);
    EXPECT_THAT(a.outcome(), HasCode(error_code::corrupt));
    EXPECT_EQ(host.log, "[ab]..");
}

TEST(Executor, ABlockedRequestPutsCommitsOffUntilItRan) {
    recording_host host;
    executor worker(host, 8);
    work_queue queue;
    letter blocked(host, 'b', {work::next::blocked, work::next::blocked, work::next::done});
    letter flush(host, 'f', {work::next::done}, true);
    worker.submit(queue, blocked);
    EXPECT_OK(worker.execute(queue, flush));
    EXPECT_EQ(host.log, "[bf]..[b].[b].C");
}

TEST(Executor, RequestsThatRunAloneAreOutsideTheBatch) {
    recording_host host;
    executor worker(host, 8);
    work_queue queue;
    letter alone(host, 'x', {work::next::done}, false, true);
    letter a(host, 'a');
    worker.submit(queue, alone);
    EXPECT_OK(worker.execute(queue, a));
    worker.wait_for(alone);
    EXPECT_EQ(host.log, "[a].<x>.");
}

TEST(Executor, ServesManyThreads) {
    recording_host host;
    executor worker(host, 4);
    ASSERT_OK(worker.start());
    work_queue queues[3];
    std::vector<std::thread> threads;
    for (std::size_t t = 0; t < 6; ++t) {
        threads.emplace_back([&, t] {
            for (int i = 0; i < 200; ++i) {
                letter one(host, 'a', {work::next::again, work::next::done}, i % 10 == 0);
                EXPECT_OK(worker.execute(queues[t % 3], one));
            }
        });
    }
    for (std::thread& one : threads) {
        one.join();
    }
    worker.stop();
    EXPECT_EQ(worker.requests(), 2400U);
}

// Says which thread ran it; changes something if told to.
class signature final : public work {
public:
    signature(recording_host& host, bool changes, bool commit) : host_(host), changes_(changes) {
        wants_commit_ = commit;
    }
    next run() override {
        ran_by = std::this_thread::get_id();
        host_.changes = host_.changes || changes_;
        return next::done;
    }

    std::thread::id ran_by;

private:
    recording_host& host_;
    const bool changes_;
};

TEST(Executor, WhileItsThreadIsIdleACallerRunsHisRequestAndTheCommitThatItWants) {
    recording_host host;
    executor worker(host, 8);
    ASSERT_OK(worker.start());
    work_queue queue;
    // Now and then the thread is just looking for work.
    bool ran_here = false;
    bool committed_here = false;
    for (int i = 0; i < 10000 && !(ran_here && committed_here); ++i) {
        signature one(host, false, true);
        ASSERT_OK(worker.execute(queue, one));
        ran_here = ran_here || one.ran_by == std::this_thread::get_id();
        worker.stop();
        committed_here = committed_here || host.committed_by == std::this_thread::get_id();
        ASSERT_OK(worker.start());
    }
    worker.stop();
    EXPECT_TRUE(ran_here);
    EXPECT_TRUE(committed_here);
}

// Its thread looks at the clock once in each turn.
class sleepy_host final : public executor_host {
public:
    void begin_batch() override {}
    result<void> end_batch() override { return {}; }
    void begin_alone() override {}
    result<void> end_alone() override { return {}; }
    void ran_out_of_memory() noexcept override {}
    result<void> commit() override {
        changes = false;
        commits.fetch_add(1);
        return {};
    }
    bool commit_is_due() override { return changes && due.load(); }
    void look_at_clock() override { looks.fetch_add(1); }
    std::chrono::nanoseconds idle_time() override { return changes ? with_changes : without; }
    bool has_changes() override { return changes; }

    bool changes = false;
    std::atomic<bool> due{false};
    std::atomic<int> commits{0};
    std::atomic<int> looks{0};
    std::chrono::nanoseconds without = std::chrono::hours(1);
    std::chrono::nanoseconds with_changes = std::chrono::hours(1);
};

class change final : public work {
public:
    change(sleepy_host& host, bool commit) : host_(host) { wants_commit_ = commit; }
    next run() override {
        host_.changes = true;
        return next::done;
    }

private:
    sleepy_host& host_;
};

class SleepingThread : public ::testing::Test {
protected:
    void start() {
        ASSERT_OK(worker_.start());
        while (host_.looks.load() == 0) {
            std::this_thread::yield();
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    void make_change(bool commit) {
        change one(host_, commit);
        ASSERT_OK(worker_.execute(queue_, one));
    }
    sleepy_host host_;
    executor worker_{host_, 8};
    work_queue queue_;
};

TEST_F(SleepingThread, IsNotWokenByChangesThatItWillBeInTimeFor) {
    start();
    const int looks = host_.looks.load();
    for (int i = 0; i < 100; ++i) {
        make_change(false);
        make_change(true);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    EXPECT_EQ(host_.commits.load(), 100);
    EXPECT_LE(host_.looks.load(), looks + 50) << "each of 100 would wake it";
    worker_.stop();
}

TEST_F(SleepingThread, IsWokenByAChangeThatItWouldBeLateFor) {
    host_.with_changes = std::chrono::milliseconds(1);
    start();
    const int looks = host_.looks.load();
    make_change(false);
    while (host_.looks.load() == looks) {
        std::this_thread::yield();
    }
    host_.due.store(true);
    while (host_.commits.load() == 0) {
        std::this_thread::yield();
    }
    worker_.stop();
}

TEST(Executor, ItsThreadWakesUpForTheCommitOfWhatACallerChanged) {
    recording_host host;
    host.idle = std::chrono::hours(1);
    executor worker(host, 8);
    ASSERT_OK(worker.start());
    work_queue queue;
    for (int i = 1; i <= 20; ++i) {
        signature one(host, true, false);
        ASSERT_OK(worker.execute(queue, one));
        while (host.commits.load() < i) {
            std::this_thread::yield();
        }
    }
    worker.stop();
    EXPECT_EQ(host.commits.load(), 20);
    EXPECT_NE(host.committed_by, std::this_thread::get_id());
}

}  // namespace
}  // namespace uthin::pool_engine
