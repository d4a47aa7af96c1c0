// The least that C++ gRPC can do: raw bytes in, canned bytes out, by its callback API (its fastest).
//
// GetActionResult answers the bytes of a file, FindMissingBlobs an empty message (all is there) and
// the cheapest call an empty one, without a look at the request; Read sends as many bytes as the
// resource name ends with, Write takes everything and answers that number. Nothing is stored.
//
// Use: grpc_cpp_server HOST:PORT ACTION_RESULT_FILE CHUNK_BYTES [CERTIFICATE KEY]; the first line
// printed is the address. SIGTERM ends it.

#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/grpcpp.h>

#include <csignal>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>
#include <string>

namespace {

std::string action_result;
size_t chunk_bytes = 1 << 20;

std::string Varint(uint64_t value) {
  std::string out;
  for (; value >= 0x80; value >>= 7) out.push_back(static_cast<char>(value | 0x80));
  out.push_back(static_cast<char>(value));
  return out;
}

grpc::ByteBuffer Buffer(const std::string& data) {
  grpc::Slice slice(data);
  return grpc::ByteBuffer(&slice, 1);
}

// ReadResponse{data = 10: zeros}, its payload shared by all messages.
grpc::ByteBuffer ReadResponse(size_t size) {
  static const grpc::Slice zeros(std::string(chunk_bytes, '\0'));
  grpc::Slice parts[2] = {grpc::Slice("\x52" + Varint(size)), size == chunk_bytes ? zeros : zeros.sub(0, size)};
  return grpc::ByteBuffer(parts, 2);
}

// The number after the last slash of the resource name, which is field 1 and comes first.
uint64_t SizeIn(const grpc::ByteBuffer& request) {
  grpc::ByteBuffer copy(request);
  std::vector<grpc::Slice> slices;
  if (!copy.Dump(&slices).ok() || slices.empty()) return 0;
  std::string head(reinterpret_cast<const char*>(slices[0].begin()), std::min<size_t>(slices[0].size(), 200));
  if (head.size() < 2 || head[0] != '\x0a') return 0;
  std::string name = head.substr(2, static_cast<unsigned char>(head[1]));
  return std::strtoull(name.substr(name.rfind('/') + 1).c_str(), nullptr, 10);
}

class Unary : public grpc::ServerGenericBidiReactor {
 public:
  explicit Unary(const std::string& answer) : answer_(Buffer(answer)) { StartRead(&request_); }
  void OnReadDone(bool ok) override {
    if (ok) {
      StartWriteAndFinish(&answer_, grpc::WriteOptions(), grpc::Status::OK);
    } else {
      Finish(grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "no request"));
    }
  }
  void OnDone() override { delete this; }

 private:
  grpc::ByteBuffer request_, answer_;
};

class Read : public grpc::ServerGenericBidiReactor {
 public:
  Read() { StartRead(&request_); }
  void OnReadDone(bool) override {
    left_ = SizeIn(request_);
    Next();
  }
  void OnWriteDone(bool ok) override {
    if (ok) Next(); else Finish(grpc::Status::CANCELLED);
  }
  void OnDone() override { delete this; }

 private:
  void Next() {
    if (left_ == 0) return Finish(grpc::Status::OK);
    size_t size = std::min<uint64_t>(left_, chunk_bytes);
    left_ -= size;
    response_ = ReadResponse(size);
    StartWrite(&response_);
  }
  uint64_t left_ = 0;
  grpc::ByteBuffer request_, response_;
};

class Write : public grpc::ServerGenericBidiReactor {
 public:
  Write() { StartRead(&request_); }
  void OnReadDone(bool ok) override {
    if (ok) {
      if (size_ == 0) size_ = SizeIn(request_);
      request_.Clear();
      return StartRead(&request_);
    }
    response_ = Buffer("\x08" + Varint(size_));  // WriteResponse{committed_size = 1}
    StartWriteAndFinish(&response_, grpc::WriteOptions(), grpc::Status::OK);
  }
  void OnDone() override { delete this; }

 private:
  uint64_t size_ = 0;
  grpc::ByteBuffer request_, response_;
};

class Service : public grpc::CallbackGenericService {
 public:
  grpc::ServerGenericBidiReactor* CreateReactor(grpc::GenericCallbackServerContext* context) override {
    const std::string& method = context->method();
    if (method == "/build.bazel.remote.execution.v2.ActionCache/GetActionResult") return new Unary(action_result);
    if (method == "/google.bytestream.ByteStream/Read") return new Read();
    if (method == "/google.bytestream.ByteStream/Write") return new Write();
    return new Unary("");
  }
};

std::string FileText(const char* path) {
  std::ifstream file(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

std::shared_ptr<grpc::ServerCredentials> Credentials(int count, char** arguments) {
  if (count < 6) return grpc::InsecureServerCredentials();
  grpc::SslServerCredentialsOptions options;
  options.pem_key_cert_pairs.push_back({FileText(arguments[5]), FileText(arguments[4])});
  return grpc::SslServerCredentials(options);
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 4 && count != 6) {
    std::cerr << "usage: grpc_cpp_server HOST:PORT ACTION_RESULT_FILE CHUNK_BYTES [CERTIFICATE KEY]\n";
    return 2;
  }
  action_result = FileText(arguments[2]);
  chunk_bytes = std::strtoull(arguments[3], nullptr, 10);

  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);

  Service service;
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort(arguments[1], Credentials(count, arguments), &port);
  builder.SetMaxReceiveMessageSize(-1);
  builder.RegisterCallbackGenericService(&service);
  std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (!server) return 1;
  std::string host(arguments[1]);
  std::cout << host.substr(0, host.rfind(':')) << ':' << port << std::endl;
  int number = 0;
  sigwait(&signals, &number);
  server->Shutdown(std::chrono::system_clock::now());
  return 0;
}
