#include "store/metadata.h"

#include <time.h>

#include <set>

namespace godwit::store {

Result<Revision> Metadata::PutOne(std::string key, std::string value, LeaseId lease) {
  GODWIT_ASSIGN(const auto done, Commit({{}, {Put{std::move(key), std::move(value), lease}}, {}}));
  return done.revision;
}

Result<std::int64_t> Metadata::DeleteKeys(Keys keys) {
  GODWIT_ASSIGN(const auto done, Commit({{}, {Delete{std::move(keys)}}, {}}));
  return done.results.at(0).deleted;
}

Clock BootTimeClock() {
  return [] {
    timespec now{};
    clock_gettime(CLOCK_BOOTTIME, &now);
    return std::chrono::seconds(now.tv_sec) + std::chrono::nanoseconds(now.tv_nsec);
  };
}

std::string PrefixEnd(std::string prefix) {
  while (!prefix.empty()) {
    if (static_cast<unsigned char>(prefix.back()) != 0xff) {
      prefix.back() = static_cast<char>(static_cast<unsigned char>(prefix.back()) + 1);
      return prefix;
    }
    prefix.pop_back();
  }
  return prefix;
}

namespace {

Status CheckKey(const std::string& key) {
  if (key.empty()) return InvalidArgument("metadata: a key is empty");
  if (key.size() > kKeyBytesMax) return InvalidArgument("metadata: a key is longer than 1024 bytes");
  return {};
}

Status CheckOperations(const std::vector<Operation>& operations) {
  if (operations.size() > kTransactionOperationsMax) {
    return InvalidArgument("metadata: a transaction has at most 128 operations");
  }
  std::set<std::string> put;
  std::vector<Keys> deleted;
  for (const Operation& operation : operations) {
    if (const auto* write = std::get_if<Put>(&operation)) {
      GODWIT_TRY(CheckKey(write->key));
      if (write->value.size() > kValueBytesMax) return InvalidArgument("metadata: the value of " + write->key + " is larger than 1 MiB");
      if (!put.insert(write->key).second) return InvalidArgument("metadata: a transaction writes " + write->key + " twice");
    } else if (const auto* remove = std::get_if<Delete>(&operation)) {
      if (!remove->keys.prefix) GODWIT_TRY(CheckKey(remove->keys.key));
      deleted.push_back(remove->keys);
    }
  }
  for (const Keys& keys : deleted) {
    for (const std::string& key : put) {
      if (keys.prefix ? key.starts_with(keys.key) : key == keys.key) {
        return InvalidArgument("metadata: a transaction writes " + key + " twice");
      }
    }
  }
  return {};
}

}  // namespace

Status CheckTransaction(const Transaction& transaction) {
  if (transaction.when.size() > kTransactionOperationsMax) {
    return InvalidArgument("metadata: a transaction has at most 128 comparisons");
  }
  for (const Compare& compare : transaction.when) GODWIT_TRY(CheckKey(compare.key));
  GODWIT_TRY(CheckOperations(transaction.then));
  return CheckOperations(transaction.otherwise);
}

Result<std::unique_ptr<Metadata>> OpenMetadata(const std::string& url, const std::filesystem::path& folder) {
  constexpr std::string_view kSqlite = "sqlite:";
  if (url.starts_with(kSqlite)) {
    const std::string file = url.substr(kSqlite.size());
    return OpenSqliteMetadata(file.empty() ? folder / "metadata.db" : std::filesystem::path(file));
  }
  if (url.starts_with("http://")) return OpenEtcdMetadata(url);
  return InvalidArgument("metadata store '" + url + "': must be sqlite:, sqlite:FILE or http://HOST:PORT of an etcd");
}

}  // namespace godwit::store
