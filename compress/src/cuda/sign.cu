#include "cuda/block_kernels.cuh"
#include "cuda/sign.cuh"

namespace thinwire::compress::cuda {

const SectionLauncher& sign_launcher() {
  static const BlockLauncherOf<Sign> launcher;
  return launcher;
}

}  // namespace thinwire::compress::cuda
