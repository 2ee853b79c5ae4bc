/* A DTLS 1.2 client with Mbed TLS 3.6 for the tests. It sends each line of its input in a datagram, waits for one
 * in return and prints that. What it agreed upon with the server goes to standard error. Ends with 0 at the end of
 * its input, with 1 and a word about it if anything fails.
 *
 *   mbedtls-client [OPTION …] PORT
 *     --psk IDENTITY KEY           the key in hexadecimal
 *     --certificate CHAIN KEY CA   files in PEM
 *     --suite NAME                 in Mbed TLS's spelling; default all
 *     --no-ems                     offers no extended master secret
 *     --cid HEX                    wants this connection id in what it gets; "" for none in that direction
 *     --mtu BYTES                  of its own datagrams of the handshake
 *     --max-fragment BYTES         512, 1024, 2048 or 4096
 *     --move                       sends each line from another port than the one before
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mbedtls/ctr_drbg.h"
#include "mbedtls/entropy.h"
#include "mbedtls/error.h"
#include "mbedtls/net_sockets.h"
#include "mbedtls/ssl.h"
#include "mbedtls/timing.h"

/* How long it waits for an answer, in milliseconds. */
#define PATIENCE 20000

static void check(int result, const char *what)
{
    char words[128];

    if (result >= 0)
        return;
    mbedtls_strerror(result, words, sizeof words);
    fprintf(stderr, "%s: -0x%04x %s\n", what, (unsigned) -result, words);
    exit(1);
}

static size_t unhex(const char *text, unsigned char *out, size_t room)
{
    size_t length = strlen(text) / 2;
    unsigned byte;

    for (size_t at = 0; at < length && at < room; at++) {
        if (sscanf(text + 2 * at, "%2x", &byte) != 1)
            return 0;
        out[at] = (unsigned char) byte;
    }
    return length < room ? length : room;
}

int main(int count, char **arguments)
{
    mbedtls_entropy_context entropy;
    mbedtls_ctr_drbg_context random;
    mbedtls_ssl_config config;
    mbedtls_ssl_context ssl;
    mbedtls_timing_delay_context timer;
    mbedtls_net_context net, next;
    mbedtls_x509_crt chain, anchors;
    mbedtls_pk_context key;
    unsigned char bytes[256], cid[MBEDTLS_SSL_CID_IN_LEN_MAX], peer_cid[MBEDTLS_SSL_CID_OUT_LEN_MAX];
    size_t cid_length = 0, peer_cid_length = 0;
    int suites[2] = { 0, 0 }, has_cid = 0, moves = 0, mtu = 0, enabled = 0, result;
    const char *port = NULL;
    char line[4096];

    mbedtls_entropy_init(&entropy);
    mbedtls_ctr_drbg_init(&random);
    mbedtls_ssl_config_init(&config);
    mbedtls_ssl_init(&ssl);
    mbedtls_net_init(&net);
    mbedtls_net_init(&next);
    mbedtls_x509_crt_init(&chain);
    mbedtls_x509_crt_init(&anchors);
    mbedtls_pk_init(&key);
    check(mbedtls_ctr_drbg_seed(&random, mbedtls_entropy_func, &entropy, NULL, 0), "randomness");
    check(mbedtls_ssl_config_defaults(&config, MBEDTLS_SSL_IS_CLIENT, MBEDTLS_SSL_TRANSPORT_DATAGRAM,
                                      MBEDTLS_SSL_PRESET_DEFAULT), "configuration");
    mbedtls_ssl_conf_rng(&config, mbedtls_ctr_drbg_random, &random);
    mbedtls_ssl_conf_authmode(&config, MBEDTLS_SSL_VERIFY_REQUIRED);
    mbedtls_ssl_conf_read_timeout(&config, PATIENCE);

    for (int at = 1; at < count; at++) {
        const char *option = arguments[at];
        if (!strcmp(option, "--psk") && at + 2 < count) {
            const char *identity = arguments[++at];
            size_t length = unhex(arguments[++at], bytes, sizeof bytes);
            check(mbedtls_ssl_conf_psk(&config, bytes, length, (const unsigned char *) identity,
                                       strlen(identity)), "the key");
        } else if (!strcmp(option, "--certificate") && at + 3 < count) {
            check(-abs(mbedtls_x509_crt_parse_file(&chain, arguments[++at])), "the chain");
            check(mbedtls_pk_parse_keyfile(&key, arguments[++at], NULL, mbedtls_ctr_drbg_random, &random), "the key");
            check(-abs(mbedtls_x509_crt_parse_file(&anchors, arguments[++at])), "the anchors");
            check(mbedtls_ssl_conf_own_cert(&config, &chain, &key), "the certificate");
            mbedtls_ssl_conf_ca_chain(&config, &anchors, NULL);
        } else if (!strcmp(option, "--suite") && at + 1 < count) {
            suites[0] = mbedtls_ssl_get_ciphersuite_id(arguments[++at]);
            check(suites[0] ? 0 : MBEDTLS_ERR_SSL_BAD_INPUT_DATA, "the suite");
            mbedtls_ssl_conf_ciphersuites(&config, suites);
        } else if (!strcmp(option, "--no-ems")) {
            mbedtls_ssl_conf_extended_master_secret(&config, MBEDTLS_SSL_EXTENDED_MS_DISABLED);
        } else if (!strcmp(option, "--cid") && at + 1 < count) {
            has_cid = 1;
            cid_length = unhex(arguments[++at], cid, sizeof cid);
        } else if (!strcmp(option, "--mtu") && at + 1 < count) {
            mtu = atoi(arguments[++at]);
        } else if (!strcmp(option, "--max-fragment") && at + 1 < count) {
            unsigned char code = 1;
            for (int size = atoi(arguments[++at]); size > 512; size /= 2)
                code++;
            check(mbedtls_ssl_conf_max_frag_len(&config, code), "the fragment length");
        } else if (!strcmp(option, "--move")) {
            moves = 1;
        } else if (option[0] != '-' && port == NULL) {
            port = option;
        } else {
            fprintf(stderr, "what is %s?\n", option);
            return 2;
        }
    }

    if (has_cid)
        check(mbedtls_ssl_conf_cid(&config, cid_length, MBEDTLS_SSL_UNEXPECTED_CID_FAIL), "connection ids");
    check(mbedtls_ssl_setup(&ssl, &config), "set-up");
    check(mbedtls_ssl_set_hostname(&ssl, "localhost"), "the name");
    if (has_cid)
        check(mbedtls_ssl_set_cid(&ssl, MBEDTLS_SSL_CID_ENABLED, cid, cid_length), "the connection id");
    if (mtu > 0)
        mbedtls_ssl_set_mtu(&ssl, (uint16_t) mtu);
    check(mbedtls_net_connect(&net, "127.0.0.1", port ? port : "5684", MBEDTLS_NET_PROTO_UDP), "the socket");
    mbedtls_ssl_set_bio(&ssl, &net, mbedtls_net_send, NULL, mbedtls_net_recv_timeout);
    mbedtls_ssl_set_timer_cb(&ssl, &timer, mbedtls_timing_set_delay, mbedtls_timing_get_delay);

    do
        result = mbedtls_ssl_handshake(&ssl);
    while (result == MBEDTLS_ERR_SSL_WANT_READ || result == MBEDTLS_ERR_SSL_WANT_WRITE);
    check(result, "the handshake");
    check(mbedtls_ssl_get_peer_cid(&ssl, &enabled, peer_cid, &peer_cid_length), "the server's connection id");
    fprintf(stderr, "connected: %s, connection ids of %zu and %zu\n", mbedtls_ssl_get_ciphersuite(&ssl),
            enabled ? cid_length : 0, enabled ? peer_cid_length : 0);

    while (fgets(line, sizeof line, stdin) != NULL) {
        if (moves) {
            /* The old port is given back only when there is another. */
            check(mbedtls_net_connect(&next, "127.0.0.1", port ? port : "5684", MBEDTLS_NET_PROTO_UDP), "a socket");
            mbedtls_net_free(&net);
            net = next;
        }
        check(mbedtls_ssl_write(&ssl, (const unsigned char *) line, strlen(line)), "sending");
        do
            result = mbedtls_ssl_read(&ssl, (unsigned char *) line, sizeof line);
        while (result == MBEDTLS_ERR_SSL_WANT_READ);
        check(result, "receiving");
        fwrite(line, 1, (size_t) result, stdout);
        fflush(stdout);
    }
    check(mbedtls_ssl_close_notify(&ssl), "the end");
    return 0;
}
