// The messages of a channel's handshake: the first byte says which end gets the rest, and in which state. Without the token no end
// can be made to believe the other.
#include <array>

#include "base/check.h"
#include "fuzz.h"
#include "transport/channel_handshake.h"
#include "transport/tls.h"

namespace {

using namespace godwit;
using namespace godwit::transport;

const ChannelIdentity kNear{model::DeviceName("near"), model::BootId{1}}, kFar{model::DeviceName("far"), model::BootId{2}};

void GiveToTls(Tls::Role role, ByteView message) {
  Tls tls(role, "secret");
  if (role == Tls::Role::kConnecting) (void)tls.Handshake().ok();
  const auto space = tls.Space(message.size() + 1);
  std::copy(message.begin(), message.end(), space.begin());
  tls.Received(message.size());
  const auto shaken = tls.Handshake();
  GODWIT_CHECK(!shaken.ok() || !*shaken, "TLS was satisfied by one message of a stranger");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const ByteView message(data + 1, size - 1);
  ConnectingHandshake near(kNear, "secret", Nonce{1});
  AcceptingHandshake far(kFar, "secret", Nonce{2});
  switch (data[0] % 6) {
    case 0: (void)far.OnHello(message).ok(); break;
    case 1: GODWIT_CHECK(!near.OnChallenge(message).ok(), "believed a challenge without the token"); break;
    case 2:
      GODWIT_CHECK(far.OnHello(near.hello()).ok(), "refused a hello");
      GODWIT_CHECK(!far.OnProof(message).ok(), "believed a proof without the token");
      break;
    case 3: (void)near.OnVerdict(message).ok(); break;
    case 4: GiveToTls(Tls::Role::kAccepting, message); break;
    case 5: GiveToTls(Tls::Role::kConnecting, message); break;
  }
  return 0;
}
