#include "runtime/module.h"

#include <algorithm>
#include <cstring>
#include <map>

#include <fmt/format.h>

#include "runtime/signatures.h"

namespace godwit::runtime {

Result<std::shared_ptr<const LoadedModule>> LoadedModule::Load(std::shared_ptr<const package::Package> package) {
  GODWIT_ASSIGN(std::shared_ptr<const Module> module, Module::Load(std::move(package)));
  return std::shared_ptr<const LoadedModule>(std::move(module));
}

Result<std::shared_ptr<const Module>> Module::Load(std::shared_ptr<const package::Package> package) {
  std::shared_ptr<Module> loaded(new Module);
  loaded->package_ = std::move(package);
  const fbs::Module& module = loaded->package_->module();
  if (module.memories() != nullptr && module.memories()->size() > 1) {
    return Unsupported("modules with more than one linear memory");
  }
  if (module.functions() == nullptr || module.functions()->size() == 0) {
    return Corrupt("the module description has no function table; build the package again");
  }
  GODWIT_ASSIGN(package::Blob blob, loaded->package_->image(package::HostIsa()));
  GODWIT_ASSIGN(loaded->image_, Image::Map(blob, module));
  const std::uint32_t types = module.types() != nullptr ? module.types()->size() : 0;
  for (std::uint32_t i = 0; i < types; ++i) {
    GODWIT_ASSIGN(const std::uint32_t number, InternSignature(*module.types()->Get(i)));
    loaded->signatures_.push_back(number);
  }
  return std::shared_ptr<const Module>(std::move(loaded));
}

const InitialPages& Module::initial_pages() const {
  std::call_once(initial_once_, [this] {
    constexpr std::uint64_t kPage = snapshot::kPageBytes;
    std::map<std::uint64_t, Bytes> pages;
    const auto* segments = module().data();
    for (std::uint32_t i = 0; segments != nullptr && i < segments->size(); ++i) {
      const fbs::DataSegment& segment = *segments->Get(i);
      if (segment.mode() != fbs::SegmentMode::active || segment.bytes() == nullptr || segment.offset() == nullptr) continue;
      if (segment.offset()->kind() != fbs::InitKind::constant) continue;  // Depends on what is imported.
      std::uint64_t at = static_cast<std::uint32_t>(segment.offset()->lo());
      for (std::uint64_t done = 0; done < segment.bytes()->size();) {
        const std::uint64_t in_page = at % kPage;
        const std::uint64_t step = std::min<std::uint64_t>(kPage - in_page, segment.bytes()->size() - done);
        Bytes& page = pages[at / kPage];
        page.resize(kPage);
        std::memcpy(page.data() + in_page, segment.bytes()->data() + done, step);
        at += step;
        done += step;
      }
    }
    for (const auto& [number, bytes] : pages) {
      if (std::all_of(bytes.begin(), bytes.end(), [](std::uint8_t byte) { return byte == 0; })) continue;
      initial_pages_.numbers.push_back(number);
      initial_pages_.bytes.insert(initial_pages_.bytes.end(), bytes.begin(), bytes.end());
    }
  });
  return initial_pages_;
}

bool Module::initial_pages_are_fixed() const {
  if (module().data() == nullptr) return true;
  return std::all_of(module().data()->begin(), module().data()->end(), [](const fbs::DataSegment* segment) {
    return segment->mode() != fbs::SegmentMode::active || segment->offset() == nullptr ||
           segment->offset()->kind() == fbs::InitKind::constant;
  });
}

std::string Module::FunctionName(std::uint32_t function) const {
  const auto* names = module().function_names();
  if (names != nullptr && function < names->size() && names->Get(function)->size() != 0) {
    return names->Get(function)->str();
  }
  return fmt::format("func[{}]", function);
}

std::string Module::FunctionLabel(std::uint32_t function) const {
  const auto* names = module().function_names();
  if (names != nullptr && function < names->size() && names->Get(function)->size() != 0) {
    return fmt::format("func[{}] ({})", function, names->Get(function)->str());
  }
  return fmt::format("func[{}]", function);
}

}  // namespace godwit::runtime
