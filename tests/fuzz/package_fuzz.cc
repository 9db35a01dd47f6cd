// Blobs from a peer: the input is cut into blobs (a two-byte length before each), all given under their true
// digests, the last one as the index. An input that begins with '@' has "@0".."@9" in its blobs replaced by the
// digests of earlier ones, so that documents can name each other.
#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "fuzz.h"
#include "package/package.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace godwit;
  ByteView rest(data, size);
  const bool linked = !rest.empty() && rest[0] == '@';
  if (linked) rest = rest.subspan(1);
  std::vector<std::string> blobs, digests;
  while (rest.size() >= 2 && blobs.size() < 10) {
    const std::size_t wanted = rest[0] | rest[1] << 8;
    rest = rest.subspan(2);
    std::string blob(AsText(rest.first(std::min(wanted, rest.size()))));
    rest = rest.subspan(blob.size());
    for (std::size_t at = 0; linked && at + 1 < blob.size(); ++at) {
      if (blob[at] != '@') continue;
      const auto number = static_cast<std::size_t>(blob[at + 1] - '0');
      if (number < digests.size()) blob.replace(at, 2, digests[number]);
    }
    digests.push_back(package::Sha256Digest(AsBytes(blob)));
    blobs.push_back(std::move(blob));
  }
  if (blobs.empty()) return 0;
  std::map<std::string, package::Blob> by_digest;
  for (std::size_t i = 0; i < blobs.size(); ++i) by_digest[digests[i]] = {digests[i], AsBytes(blobs[i]), -1, 0, nullptr};
  const auto package = package::Package::FromBlobs(digests.back(), by_digest);
  if (package.ok()) (void)(*package)->image(package::HostIsa());
  return 0;
}
