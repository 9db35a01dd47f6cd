// The one implementation of LoadedModule: a package, its image for this ISA and what all instances share.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "runtime/image.h"
#include "runtime/instance.h"
#include "runtime/recycled.h"

namespace godwit::runtime {

// Pages of linear memory 0 that the active data segments make non-zero, as they are after instantiation.
struct InitialPages {
  std::vector<std::uint64_t> numbers;  // Ascending, in units of snapshot::kPageBytes.
  Bytes bytes;                         // snapshot::kPageBytes for each.
  const std::uint8_t* page(std::size_t i) const { return bytes.data() + i * snapshot::kPageBytes; }
};

class Module final : public LoadedModule {
 public:
  static Result<std::shared_ptr<const Module>> Load(std::shared_ptr<const package::Package> package);
  static const Module& From(const LoadedModule& loaded) { return static_cast<const Module&>(loaded); }

  const package::Package& package() const override { return *package_; }
  const Image& image() const { return *image_; }
  // By type index, abi::Context::signatures.
  const std::vector<std::uint32_t>& signatures() const { return signatures_; }
  std::uint32_t function_count() const { return image_->function_count(); }
  const fbs::FunctionType& type_of(std::uint32_t function) const {
    return *module().types()->Get(module().functions()->Get(function)->type());
  }
  // Built at first use. Any thread.
  const InitialPages& initial_pages() const;
  // Whether the initial pages are all that data segments make of a memory.
  bool initial_pages_are_fixed() const;
  RemainsPool& remains() const { return remains_; }
  // "parse_line", or "func[12]" where the name is unknown.
  std::string FunctionName(std::uint32_t function) const;
  // "func[12] (parse_line)".
  std::string FunctionLabel(std::uint32_t function) const;

 private:
  Module() = default;

  std::shared_ptr<const package::Package> package_;
  std::unique_ptr<const Image> image_;
  std::vector<std::uint32_t> signatures_;
  mutable std::once_flag initial_once_;
  mutable InitialPages initial_pages_;
  mutable RemainsPool remains_;
};

}  // namespace godwit::runtime
