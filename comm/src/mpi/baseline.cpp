#include "baseline.hpp"

#include <string>

#include "runtime.hpp"
#include "thinwire/core/config.hpp"
#include "thinwire/core/error.hpp"

namespace thinwire::comm {
namespace {

/// Sets an integer variable of Open MPI for as long as it lives (MPI tool interface).
class ControlVariable {
 public:
  ControlVariable(const char* name, int value) {
    int provided = 0;
    int index = 0;
    int count = 0;
    MPI_T_init_thread(MPI_THREAD_SINGLE, &provided);
    if (MPI_T_cvar_get_index(name, &index) != MPI_SUCCESS ||
        MPI_T_cvar_handle_alloc(index, nullptr, &handle_, &count) != MPI_SUCCESS ||
        MPI_T_cvar_read(handle_, &before_) != MPI_SUCCESS ||
        MPI_T_cvar_write(handle_, &value) != MPI_SUCCESS) {
      throw TransportError{
          "this MPI has no variable '" + std::string{name} +
          "' that can be set, so its ring cannot be chosen: that needs Open MPI 4 or later, "
          "started with OMPI_MCA_coll_tuned_use_dynamic_rules=1"};
    }
  }
  ~ControlVariable() {
    MPI_T_cvar_write(handle_, &before_);
    MPI_T_cvar_handle_free(&handle_);
    MPI_T_finalize();
  }
  ControlVariable(const ControlVariable&) = delete;
  ControlVariable& operator=(const ControlVariable&) = delete;

 private:
  MPI_T_cvar_handle handle_ = nullptr;
  int before_[64] = {};  // a string or an array may be longer than one int
};

/// A communicator takes its algorithms from the variables at its birth.
MPI_Comm duplicate_with(MpiAllreduce algorithm) {
  const Wait wait{config().timeout, {}, {}};
  if (algorithm == MpiAllreduce::picked) return duplicate(MPI_COMM_WORLD, wait);
  const ControlVariable ring{"coll_tuned_allreduce_algorithm", 4};
  return duplicate(MPI_COMM_WORLD, wait);
}

class Baseline final : public MpiBaseline {
 public:
  explicit Baseline(MpiAllreduce algorithm) : communicator_{duplicate_with(algorithm)} {}

  void allreduce(float* data, std::int64_t elements) override {
    THINWIRE_EXPECTS(
        elements <= INT32_MAX, InvalidArgument,
        "MPI_Allreduce counts in int; " + std::to_string(elements) + " elements do not fit");
    MpiRuntime::get().call("MPI_Allreduce", MPI_Allreduce, static_cast<const void*>(MPI_IN_PLACE),
                           static_cast<void*>(data), static_cast<int>(elements), MPI_FLOAT, MPI_SUM,
                           communicator_);
  }

 private:
  MPI_Comm communicator_;  // lives as long as the process
};

}  // namespace

std::unique_ptr<MpiBaseline> make_mpi_baseline_here(MpiAllreduce algorithm) {
  return std::make_unique<Baseline>(algorithm);
}

}  // namespace thinwire::comm
