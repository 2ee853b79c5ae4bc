/* What tinydtls and its own test client ask of the machine they are built on: Debian 12, pre-shared keys and
 * raw public keys. */
#include <stdint.h>
#define DTLS_ECC 1
#define DTLS_PSK 1
#define HAVE_ARPA_INET_H 1
#define HAVE_ASSERT_H 1
#define HAVE_GETRANDOM 1
#define HAVE_INTTYPES_H 1
#define HAVE_NETDB_H 1
#define HAVE_NETINET_IN_H 1
#define HAVE_SYS_SOCKET_H 1
#define HAVE_SYS_TIME_H 1
#define HAVE_SYS_TYPES_H 1
#define HAVE_TIME_H 1
#define HAVE_UNISTD_H 1
#define HAVE_VPRINTF 1
#define PACKAGE_NAME "tinydtls"
#define PACKAGE_STRING "tinydtls"
#define PACKAGE_VERSION "0.8.6"
