// What is running of a cluster that `godwit up` started, kept in STATE/cluster.json so that anyone can end
// it.
//
// The record is written before a thing is created and erased after it is gone, so a reader may find things
// that do not exist any more, never the other way round. A process is named by its id and its start time: an
// id alone is reused.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"

namespace godwit::cli {

struct ProcessRecord {
  std::string name;
  pid_t pid = 0;
  std::uint64_t start_ticks = 0;  // Field 22 of /proc/PID/stat.
};

struct LinkRecord {
  std::string device;
  std::string interface;  // The host's end.
};

struct ClusterRecord {
  std::string server;  // URL of the controller.
  std::string token_file;
  ProcessRecord keeper;
  std::vector<ProcessRecord> daemons;
  std::vector<LinkRecord> links;
  std::vector<std::string> cgroups;  // Folders.
};

// ~/.local/state/godwit/cluster and ~/.config/godwit/context.json ($XDG_STATE_HOME and $XDG_CONFIG_HOME where
// set).
std::string DefaultStateFolder();
std::string ContextFile();

// kNotFound: no cluster was ever started there, or it is gone.
Result<ClusterRecord> LoadRecord(const std::string& state_folder);
Status SaveRecord(const std::string& state_folder, const ClusterRecord& record);

// The start time of a process that runs (not a zombie), to be compared with a record's.
std::optional<std::uint64_t> StartTicks(pid_t pid);
bool IsRunning(const ProcessRecord& process);

// Ends every process of the record, removes its links and cgroups, then the state folder and the context that
// points to it. What is gone already is no error. Safe to repeat.
void Erase(const std::string& state_folder, const ClusterRecord& record);

// Writes or removes the context that the other commands read. Remove leaves one that names another server
// alone.
Status WriteContext(const std::string& server, const std::string& token, const std::string& state_folder);
void RemoveContext(const std::string& server);

}  // namespace godwit::cli
