// ChannelPool: at most one outgoing channel per address, opened when it is first wanted. Loop-bound.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "transport/channel.h"

namespace godwit::transport {

class ChannelPool {
 public:
  // The handlers are those of every channel of the pool.
  ChannelPool(EventLoop& loop, ChannelOptions options, ChannelHandlers handlers);
  // Drops all channels; nothing is called afterwards.
  ~ChannelPool();

  // The open channel to `address`, at once if there is one, otherwise when it has been connected; or why not.
  void Get(const std::string& address, std::function<void(Result<std::shared_ptr<Channel>>)> done);
  // For tests and for metrics: the open channels.
  std::vector<std::shared_ptr<Channel>> channels() const;

 private:
  using Done = std::function<void(Result<std::shared_ptr<Channel>>)>;
  struct State {
    ChannelHandlers handlers;
    std::map<std::string, std::shared_ptr<Channel>> open;
    std::map<std::string, std::vector<Done>> connecting;
  };
  EventLoop& loop_;
  const ChannelOptions options_;
  std::shared_ptr<State> state_;  // Shared with connections under way, which may outlive the pool.
};

}  // namespace godwit::transport
