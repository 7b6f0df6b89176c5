// A session of clicks with a bundle of inter2former-deploy, by what its manifest.json says.
#pragma once

#include <onnxruntime_cxx_api.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "json.h"

struct Picture {
  int64_t width = 0, height = 0;
  std::vector<uint8_t> pixels;  // row by row: red, green, blue
};

using Mask = std::vector<uint8_t>;  // width * height, 1 where the object is
using Tensors = std::map<std::string, Ort::Value>;

// A graph of a bundle.
class Graph {
 public:
  Graph(const Ort::Env& env, const std::filesystem::path& file, const Ort::SessionOptions& options);

  // Runs the graph on those of the tensors that it takes.
  Tensors run(const Tensors& tensors);

 private:
  Ort::Session session_;
  std::vector<std::string> inputs_, outputs_;
};

class Session;

// A bundle, loaded. Outlives its sessions. Everything throws std::exception with what is wrong.
class Segmenter {
 public:
  // `operators`: libinter2former_ops.so; plain onnxruntime where it is empty.
  Segmenter(const std::filesystem::path& bundle, const std::string& operators, int threads);

  // Encodes a picture once for all its clicks.
  Session open(const Picture& picture);

 private:
  friend class Session;

  Ort::Env env_{ORT_LOGGING_LEVEL_WARNING, "inter2former"};
  Json manifest_;
  int64_t size_;  // S, the side of the model's square
  std::unique_ptr<Graph> encoder_, prepare_, click_;
};

// One picture being segmented. Coordinates are its pixels.
class Session {
 public:
  Mask click(double x, double y, bool positive);
  Mask undo();
  Mask mask() const;  // of the clicks so far

 private:
  friend class Segmenter;
  struct Step {
    std::vector<uint8_t> labels;  // the map that was decoded, S x S
    std::vector<float> logits;    // in the box, row by row
    int64_t left, top, right, bottom;
  };

  Session(Segmenter& segmenter, Tensors tensors, int64_t width, int64_t height, int64_t side);
  std::vector<uint8_t> folded_labels() const;

  Segmenter* segmenter_;
  Tensors tensors_;  // what the click graph takes of the picture
  int64_t width_, height_, side_;
  std::vector<Step> steps_;  // all that undo needs
};
