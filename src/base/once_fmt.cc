// What of {fmt} every file would compile again if it were used header-only; Debian has no static library of it.
#include <fmt/format-inl.h>

// Used by fmt/format.h, defined in fmt/format-inl.h, instantiated by neither.
namespace fmt::detail {
template std::locale locale_ref::get<std::locale>() const;
template thousands_sep_result<char> thousands_sep_impl<char>(locale_ref);
template char decimal_point_impl<char>(locale_ref);
}  // namespace fmt::detail
