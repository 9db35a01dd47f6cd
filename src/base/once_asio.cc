// What of Boost.Asio and Boost.Beast every file would compile again if they were used header-only.
#include <boost/asio/impl/src.hpp>
#include <boost/beast/src.hpp>
