// Writes the golden files: make_golden DIRECTORY. Only for a new wire version, or a new case.

#include <fstream>
#include <iostream>

#include "golden_cases.hpp"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: make_golden DIRECTORY (tests/golden of the source tree)\n";
    return 2;
  }
  using namespace thinwire::compress;
  for (const auto& [name, bytes] : test::golden_files(make_reference_coder)) {
    std::ofstream file{std::string{argv[1]} + "/" + name, std::ios::binary};
    file.write(reinterpret_cast<const char*>(bytes.data()),
               static_cast<std::streamsize>(bytes.size()));
    if (!file.flush()) {
      std::cerr << "make_golden: cannot write " << argv[1] << "/" << name << "\n";
      return 1;
    }
    std::cout << name << ": " << bytes.size() << " bytes\n";
  }
  return 0;
}
