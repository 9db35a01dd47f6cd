// DataHttp: PUT, GET (one Range too) and DELETE /v1/data/NAME of this device's datasets, streaming; POST /v1/data/NAME?run=FUNCTION runs a
// function over one, with the body as its arguments, and streams its output. Loop-bound.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "agent/datasets.h"
#include "device/device.h"
#include "device/foreground.h"
#include "transport/http_server.h"

namespace godwit::agent {

// False, and answered with 401: there is a token, and the request does not bear it.
bool MustBear(const std::shared_ptr<transport::HttpExchange>& exchange, const std::string& token);
// Answers with the problem that the error is.
void Refuse(const std::shared_ptr<transport::HttpExchange>& exchange, const Error& error);

class DataHttp {
 public:
  // How the cluster learns of a dataset; `done` on any thread.
  struct Registrar {
    std::function<void(const DatasetInfo& info, std::function<void(Status)> done)> put;
    std::function<void(const model::DatasetName& name, std::function<void(Status)> done)> remove;
  };
  // `datasets`, `foreground`, which is told of reads and writes, and `device`, which runs functions over them, outlive it. With a token, requests must bear it.
  DataHttp(Datasets& datasets, device::Foreground& foreground, device::Device& device, std::string token, Registrar registrar)
      : datasets_(datasets), foreground_(foreground), device_(device), token_(std::move(token)), registrar_(std::move(registrar)) {}
  // False: not a path of datasets.
  bool Handle(const std::shared_ptr<transport::HttpExchange>& exchange);

 private:
  void Put(const std::shared_ptr<transport::HttpExchange>& exchange, const model::DatasetName& name);
  void Get(const std::shared_ptr<transport::HttpExchange>& exchange, const model::DatasetName& name);

  void Run(const std::shared_ptr<transport::HttpExchange>& exchange, const model::DatasetName& name);

  Datasets& datasets_;
  device::Foreground& foreground_;
  device::Device& device_;
  const std::string token_;
  const Registrar registrar_;
};

}  // namespace godwit::agent
