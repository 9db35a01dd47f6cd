#include "transport/channel_pool.h"

namespace godwit::transport {

ChannelPool::ChannelPool(EventLoop& loop, ChannelOptions options, ChannelHandlers handlers)
    : loop_(loop), options_(std::move(options)), state_(std::make_shared<State>()) {
  state_->handlers = std::move(handlers);
}

ChannelPool::~ChannelPool() {
  const auto open = std::move(state_->open);
  state_->handlers = {};
  state_->connecting.clear();
  for (const auto& [address, channel] : open) channel->Drop();
}

std::vector<std::shared_ptr<Channel>> ChannelPool::channels() const {
  std::vector<std::shared_ptr<Channel>> all;
  for (const auto& [address, channel] : state_->open) all.push_back(channel);
  return all;
}

void ChannelPool::Get(const std::string& address, Done done) {
  if (const auto found = state_->open.find(address); found != state_->open.end() && found->second->open()) return done(found->second);
  auto& waiting = state_->connecting[address];
  waiting.push_back(std::move(done));
  if (waiting.size() > 1) return;
  const std::weak_ptr<State> weak = state_;
  ChannelHandlers handlers;
  handlers.on_frame = [weak](const std::shared_ptr<Channel>& channel, Frame frame) {
    const auto state = weak.lock();
    if (state && state->handlers.on_frame) state->handlers.on_frame(channel, std::move(frame));
  };
  handlers.on_closed = [weak, address](const std::shared_ptr<Channel>& channel, const Error& error) {
    const auto state = weak.lock();
    if (!state) return;
    const auto found = state->open.find(address);
    if (found != state->open.end() && found->second == channel) state->open.erase(found);
    if (state->handlers.on_closed) state->handlers.on_closed(channel, error);
  };
  ConnectChannel(loop_, address, options_, std::move(handlers), [weak, address](Result<std::shared_ptr<Channel>> result) {
    const auto state = weak.lock();
    if (!state || state->connecting.count(address) == 0) {
      if (result.ok()) (*result)->Drop();
      return;
    }
    const auto waiting = std::move(state->connecting[address]);
    state->connecting.erase(address);
    if (result.ok()) state->open[address] = *result;
    for (const auto& one : waiting) one(result);
  });
}

}  // namespace godwit::transport
