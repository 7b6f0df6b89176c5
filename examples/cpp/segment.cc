// segment BUNDLE PICTURE.ppm FOLDER +X,Y -X,Y undo ...: writes FOLDER/1.pgm, FOLDER/2.pgm, ..., a
// mask a step.
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <string>

#include "inter2former.h"

namespace {

constexpr int64_t kMostPixels = int64_t{1} << 28;

struct Click {
  double x, y;
  bool positive;
};

// A step: a click, or undo, which is none. Throws std::invalid_argument if it is neither.
std::optional<Click> step_of(const std::string& text) {
  if (text == "undo") return std::nullopt;
  Click click{0, 0, text[0] == '+'};
  char sign = 0, rest = 0;
  if (std::sscanf(text.c_str(), "%c%lf,%lf%c", &sign, &click.x, &click.y, &rest) != 3 ||
      (sign != '+' && sign != '-')) {
    throw std::invalid_argument("a step is +X,Y (on the object), -X,Y (not on it) or undo, not " +
                                text);
  }
  return click;
}

// A picture in the format PPM, binary, 8 bits: what convert, pnmtools and OpenCV write.
Picture read_ppm(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::string kind;
  Picture picture;
  int64_t largest = 0;
  file >> kind >> picture.width >> picture.height >> largest;
  file.get();
  if (!file || kind != "P6" || largest != 255 || picture.width < 1 || picture.height < 1 ||
      picture.width > kMostPixels / picture.height) {
    throw std::runtime_error(path.string() +
                             " is no PPM picture (P6) of 8 bits and at most 2^28 pixels");
  }
  picture.pixels.resize(static_cast<size_t>(3 * picture.width * picture.height));
  file.read(reinterpret_cast<char*>(picture.pixels.data()),
            static_cast<std::streamsize>(picture.pixels.size()));
  if (!file) throw std::runtime_error(path.string() + " is cut off");
  return picture;
}

void write_pgm(const std::filesystem::path& path, const Picture& picture, Mask mask) {
  for (uint8_t& inside : mask) inside = inside ? 255 : 0;
  std::ofstream file(path, std::ios::binary);
  file << "P5\n" << picture.width << ' ' << picture.height << "\n255\n";
  file.write(reinterpret_cast<const char*>(mask.data()), static_cast<std::streamsize>(mask.size()));
  file.close();
  if (!file) throw std::runtime_error(path.string() + " cannot be written");
}

void run(int argc, char** argv) {
  std::vector<std::optional<Click>> steps;
  for (int i = 4; i < argc; ++i) steps.push_back(step_of(argv[i]));
  const Picture picture = read_ppm(argv[2]);
  const char* operators = std::getenv("INTER2FORMER_OPS_LIBRARY");
  const char* threads = std::getenv("OMP_NUM_THREADS");
  Segmenter segmenter(argv[1], operators ? operators : "", threads ? std::atoi(threads) : 0);
  Session session = segmenter.open(picture);
  std::filesystem::create_directories(argv[3]);
  for (size_t i = 0; i < steps.size(); ++i) {
    const Mask mask =
        steps[i] ? session.click(steps[i]->x, steps[i]->y, steps[i]->positive) : session.undo();
    const auto path = std::filesystem::path(argv[3]) / (std::to_string(i + 1) + ".pgm");
    write_pgm(path, picture, mask);
    std::printf("%s: %s, %d pixels\n", path.c_str(), argv[i + 4],
                std::accumulate(mask.begin(), mask.end(), 0));
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 5) {
    std::fputs(
        "usage: segment BUNDLE PICTURE.ppm FOLDER +X,Y (on the object) | -X,Y (not on it) | undo "
        "...\n",
        stderr);
    return 2;
  }
  if (!OrtGetApiBase()->GetApi(ORT_API_VERSION)) {
    std::fputs(
        "segment: this onnxruntime is older than the headers with which the program was built\n",
        stderr);
    return 1;
  }
  try {
    run(argc, argv);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "segment: %s\n", error.what());
    return 1;
  }
}
