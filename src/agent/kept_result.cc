#include "agent/kept_result.h"

#include <atomic>
#include <utility>

#include <fmt/format.h>

namespace godwit::agent {
namespace {

// Longer than any piece waits for its turn. Memory of a caller that died is freed after it.
constexpr std::chrono::microseconds kUnusedFor = std::chrono::minutes(10);

// One command is under way at any time, and its completion holds this.
class Keeping final : public Pending, public std::enable_shared_from_this<Keeping> {
 public:
  using Submit = std::function<void(device::Request, device::Device::Done)>;
  using Done = std::function<void(Result<std::uint64_t>)>;
  Keeping(std::shared_ptr<device::Device> device, Submit submit, device::Request request, std::string result, Done done)
      : device_(std::move(device)), submit_(std::move(submit)), request_(std::move(request)), result_(std::move(result)), done_(std::move(done)) {}

  void Begin() {
    device::Request allocate = Command(device::Opcode::kAllocate);
    allocate.bytes = kResultBytesMax;
    allocate.value = static_cast<std::uint64_t>(kUnusedFor.count());
    device_->Submit(std::move(allocate), [self = shared_from_this()](device::Completion completion) {
      if (!completion.status.ok()) return self->done_(completion.status.error().Within("memory for a result"));
      self->memory_ = completion.capability;
      self->NextPiece();
    });
  }
  void Cancel() override {
    cancelled_ = true;
    device::Request abort = Command(device::Opcode::kAbort);
    abort.value = request_.id;
    device_->Submit(std::move(abort), [](device::Completion) {});
  }

 private:
  device::Request Command(device::Opcode opcode) const {
    device::Request command;
    command.opcode = opcode;
    command.tenant = request_.tenant;
    return command;
  }
  void NextPiece() {
    if (cancelled_) return End(Aborted("cancelled"));
    request_.ranges = {{memory_, bytes_, kResultBytesMax - bytes_}};
    submit_(request_, [self = shared_from_this()](device::Completion completion) {
      if (!completion.status.ok()) return self->End(completion.status.error());
      self->bytes_ += completion.value;
      self->request_.state = std::move(completion.state);
      if (!completion.more) return self->Store();
      if (self->bytes_ == kResultBytesMax) return self->End(ResourceExhausted(fmt::format("the result is larger than {} bytes", kResultBytesMax)));
      self->NextPiece();
    });
  }
  void Store() {
    device::Request store = Command(device::Opcode::kStorageWrite);
    store.name = result_;
    store.ranges = {{memory_, 0, bytes_}};
    device_->Submit(std::move(store), [self = shared_from_this()](device::Completion completion) {
      if (!completion.status.ok()) return self->End(completion.status.error());
      self->End(self->bytes_);
    });
  }
  void End(Result<std::uint64_t> result) {
    device::Request free = Command(device::Opcode::kFree);
    free.ranges = {{memory_, 0, kResultBytesMax}};
    device_->Submit(std::move(free), [self = shared_from_this(), result = std::move(result)](device::Completion) { self->done_(result); });
  }

  const std::shared_ptr<device::Device> device_;
  const Submit submit_;
  device::Request request_;
  const std::string result_;
  const Done done_;
  std::atomic<bool> cancelled_{false};
  device::Capability memory_;
  std::uint64_t bytes_ = 0;
};

}  // namespace

std::shared_ptr<Pending> KeepResult(std::shared_ptr<device::Device> device, std::function<void(device::Request, device::Device::Done)> submit,
                                    device::Request request, const std::string& result, std::function<void(Result<std::uint64_t>)> done) {
  auto keeping = std::make_shared<Keeping>(std::move(device), std::move(submit), std::move(request), result, std::move(done));
  keeping->Begin();
  return keeping;
}

}  // namespace godwit::agent
