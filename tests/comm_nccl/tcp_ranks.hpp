#pragma once

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <exception>
#include <functional>
#include <thread>
#include <vector>

#include "thinwire/comm/tcp_control_plane.hpp"

namespace thinwire::comm {

/// A port of 127.0.0.1 that nobody listens on.
inline int free_port() {
  const int probe = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  bind(probe, reinterpret_cast<sockaddr*>(&address), length);
  getsockname(probe, reinterpret_cast<sockaddr*>(&address), &length);
  close(probe);
  return ntohs(address.sin_port);
}

inline TcpRendezvous rendezvous_of(int rank, int size, int port, Timeout timeout = Timeout{20000}) {
  return {rank, size, "127.0.0.1", port, "the secret of this test", timeout};
}

/// Runs body(rank) on `ranks` threads; an exception is a failure of the test.
inline void run_tcp_threads(int ranks, const std::function<void(int)>& body) {
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([rank, &body] {
      try {
        body(rank);
      } catch (const std::exception& error) {
        ADD_FAILURE() << "rank " << rank << ": " << error.what();
      }
    });
  }
  for (auto& thread : threads) thread.join();
}

/// Runs body(rank) in `ranks` processes; true and no exception is exit status 0. Returns the wait
/// status of each. A process that is still there when all but `expendable` have ended is killed.
inline std::vector<int> run_tcp_processes(int ranks, const std::function<bool(int)>& body,
                                          int expendable = -1) {
  std::vector<pid_t> processes;
  for (int rank = 0; rank < ranks; ++rank) {
    const pid_t process = fork();
    if (process == 0) {
      bool good = false;
      try {
        good = body(rank);
      } catch (const std::exception& error) {
        std::fprintf(stderr, "rank %d: %s\n", rank, error.what());
      }
      _exit(good ? 0 : 1);
    }
    processes.push_back(process);
  }
  std::vector<int> statuses(processes.size());
  for (int rank = 0; rank < ranks; ++rank) {
    const auto i = static_cast<std::size_t>(rank);
    if (rank != expendable) waitpid(processes[i], &statuses[i], 0);
  }
  if (expendable >= 0) {
    const auto i = static_cast<std::size_t>(expendable);
    kill(processes[i], SIGKILL);
    waitpid(processes[i], &statuses[i], 0);
  }
  return statuses;
}

}  // namespace thinwire::comm
