// What a config field may hold: rules that are checked, quoted in errors and listed in the docs.
//
// A rule looks at one value; for a field that is a list, at each element.
#pragma once

#include <cmath>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <string>
#include <type_traits>
#include <variant>

namespace pyramoe {

using ConfigScalar = std::variant<bool, int64_t, double, std::string>;

struct ConfigRule {
  std::string words;  // completes "must be …"
  std::function<bool(const ConfigScalar&)> holds;
  bool number_as_text = false;
};

namespace detail {
ConfigRule between_numbers(long double least, long double most, std::string words);
std::string rule_number(long double number);
}  // namespace detail

template <class T>
ConfigRule at_least(T least) {
  return detail::between_numbers(
      static_cast<long double>(least), HUGE_VALL,
      "at least " + detail::rule_number(static_cast<long double>(least)));
}
template <class T>
ConfigRule at_most(T most) {
  return detail::between_numbers(-HUGE_VALL, static_cast<long double>(most),
                                 "at most " + detail::rule_number(static_cast<long double>(most)));
}
template <class A, class B>
ConfigRule between(A least, B most) {
  const auto low = static_cast<long double>(least);
  const auto high = static_cast<long double>(most);
  return detail::between_numbers(
      low, high, "between " + detail::rule_number(low) + " and " + detail::rule_number(high));
}
// Greater than zero.
ConfigRule positive();
ConfigRule one_of(std::initializer_list<const char*> allowed);
// For a text field whose short form is a number: `moe.experts = 32` is taken as "32".
ConfigRule number_as_text();
// Any other rule on a value of type T (int64_t, double, std::string):
//   rule<int64_t>("even", [](int64_t x) { return x % 2 == 0; })
template <class T, class F>
ConfigRule rule(std::string words, F holds) {
  return {std::move(words), [holds](const ConfigScalar& value) {
            const T* typed = std::get_if<T>(&value);
            return typed && holds(*typed);
          }};
}

}  // namespace pyramoe
