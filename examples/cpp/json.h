// Just enough JSON for manifest.json.
#pragma once

#include <algorithm>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

// A value. Numbers, also true and false, are doubles; members keep their order.
struct Json {
  double number = 0;
  std::string text;
  std::vector<Json> items;
  std::vector<std::pair<std::string, Json>> members;

  // Throws std::runtime_error if there is no such member.
  const Json& operator[](std::string_view name) const {
    for (const auto& [key, value] : members) {
      if (key == name) return value;
    }
    throw std::runtime_error("manifest.json: there is no entry \"" + std::string(name) + '"');
  }
};

class JsonReader {
 public:
  // Throws std::runtime_error if the text is no JSON.
  static Json read(std::string_view text) {
    JsonReader reader(text);
    Json value = reader.value(0);
    if (reader.next() != '\0') fail();
    return value;
  }

 private:
  explicit JsonReader(std::string_view text) : text_(text) {}

  [[noreturn]] static void fail() { throw std::runtime_error("manifest.json is no JSON"); }

  // The next character that is no space; 0 at the end.
  char next() {
    while (at_ < text_.size() && std::string_view(" \t\r\n").find(text_[at_]) != text_.npos) ++at_;
    return at_ < text_.size() ? text_[at_] : '\0';
  }
  bool take(char wanted) {
    if (next() != wanted) return false;
    ++at_;
    return true;
  }
  bool take(std::string_view wanted) {
    if (text_.substr(at_, wanted.size()) != wanted) return false;
    at_ += wanted.size();
    return true;
  }

  Json value(int depth) {
    if (depth > 64) fail();
    Json result;
    switch (next()) {
      case '{':
        ++at_;
        if (take('}')) return result;
        do {
          if (next() != '"') fail();
          std::string name = string();
          if (!take(':')) fail();
          result.members.emplace_back(std::move(name), value(depth + 1));
        } while (take(','));
        if (!take('}')) fail();
        return result;
      case '[':
        ++at_;
        if (take(']')) return result;
        do {
          result.items.push_back(value(depth + 1));
        } while (take(','));
        if (!take(']')) fail();
        return result;
      case '"':
        result.text = string();
        return result;
      default:
        if (take("true")) {
          result.number = 1;
        } else if (!take("false") && !take("null")) {
          result.number = number();
        }
        return result;
    }
  }

  // The names and numbers that a caller needs have no escapes: \uXXXX stays as it is written.
  std::string string() {
    std::string result;
    for (++at_; at_ < text_.size() && text_[at_] != '"'; ++at_) {
      if (text_[at_] == '\\') result += text_[at_++];
      if (at_ < text_.size()) result += text_[at_];
    }
    if (at_ >= text_.size()) fail();
    ++at_;
    return result;
  }

  double number() {
    const size_t end = std::min(text_.find_first_not_of("+-.0123456789eE", at_), text_.size());
    const std::string digits(text_.substr(at_, end - at_));
    size_t used = 0;
    double result = 0;
    try {
      result = std::stod(digits, &used);
    } catch (const std::exception&) {
      fail();
    }
    if (used != digits.size()) fail();
    at_ = end;
    return result;
  }

  std::string_view text_;
  size_t at_ = 0;
};
