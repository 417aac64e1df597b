// fault_ranks KIND OPERATION PHASE: ranks under mpirun that lose one of them; see check_faults.
// Operation "split": it has agreed with the others in a split, and dies before it is made; "send":
// it stalls while it receives a large message. Each says what it came to: "rank 0 finished", "rank
// 0 raised an error naming rank 2: ...".

#include <sys/mman.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>
#include <thread>
#include <vector>

#include "thinwire/comm/fault_injection.hpp"
#include "thinwire/comm/transports.hpp"
#include "thinwire/core/error.hpp"

namespace {

using namespace thinwire;
using namespace thinwire::comm;

constexpr Timeout limit{1000};

/// Large enough that no message goes before its receiver is there.
void call_everything(Communicator& comm) {
  const auto ranks = static_cast<std::size_t>(comm.size());
  std::vector<float> in(100'000 * ranks), out(in.size());
  std::vector<std::byte> some(100'000 * ranks), all(some.size() * ranks);
  comm.allreduce(view_of(in), view_of(out), ReduceOp::sum)->wait(limit);
  comm.all_gather({some.data(), some.size()}, {all.data(), all.size()})->wait(limit);
  comm.all_to_all({some.data(), some.size()}, {some.data(), some.size()})->wait(limit);
  comm.barrier()->wait(limit);
}

constexpr int lost = 2;

void call_split(Communicator& world, const std::string& kind) {
  if (world.rank() == lost) {
    const int wish[] = {0, lost, 0};  // color, key and number, as agree_on_split() sends them
    world.control().all_gather({reinterpret_cast<const char*>(wish), sizeof wish}, limit);
    if (kind == "kill") std::raise(SIGKILL);
    std::this_thread::sleep_for(6 * limit);
  }
  world.split(0, world.rank());
}

/// Memory that a late reader dies of.
class Mapped {
 public:
  explicit Mapped(std::size_t size) : size_{size} {
    data_ = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data_ == MAP_FAILED) throw std::runtime_error{"mmap failed"};
  }
  ~Mapped() { munmap(data_, size_); }
  Mapped(const Mapped&) = delete;
  Mapped& operator=(const Mapped&) = delete;

  ByteView view() const { return {static_cast<std::byte*>(data_), size_}; }

 private:
  void* data_ = nullptr;
  std::size_t size_;
};

/// Rank 0's message has found its receive when rank 2 stalls: MPI still wants to read it when the
/// time is over and its memory is gone.
void call_send(Communicator& world) {
  const auto comm = world.split(0, world.rank());
  try {
    const Mapped data{std::size_t{192} << 20};
    if (world.rank() == 0) {
      comm->send(data.view(), lost)->wait(limit);
    } else if (world.rank() == lost) {
      const auto work = comm->recv(data.view(), 0);
      for (int i = 0; i < 6; ++i) work->test();
      std::this_thread::sleep_for(4 * limit);
      work->wait(limit);
    } else {
      comm->barrier()->wait(2 * limit);
    }
  } catch (const TransportError&) {
    try {  // what drives MPI on
      world.barrier()->wait(limit);
    } catch (const TransportError&) {
    }
    throw;
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  int rank = -1;
  const bool in_split = argv[2] == std::string{"split"};
  if (in_split) setenv("THINWIRE_TIMEOUT", "3", 1);  // split() takes none; the start has it too
  try {
    const auto world = make_mpi_communicator();
    rank = world->rank();
    if (in_split) call_split(*world, argv[1]);
    if (argv[2] == std::string{"send"}) call_send(*world);
    const auto comm = inject_faults(*world, {{.kind = parse_fault_kind(argv[1]),
                                              .rank = lost,
                                              .operation = argv[2],
                                              .call = 1,
                                              .phase = parse_fault_phase(argv[3]),
                                              .duration = 2 * limit}});
    for (int i = 0; i < 3; ++i) call_everything(*comm);
    std::printf("rank %d finished\n", rank);
    return 0;
  } catch (const TransportError& error) {
    std::printf("rank %d raised an error naming rank %d: %s\n", rank, error.peer, error.what());
  } catch (const std::exception& error) {
    std::printf("rank %d raised: %s\n", rank, error.what());
  }
  return 1;
}
