/* A DTLS 1.2 client with Debian's wolfSSL for the tests. It sends each line of its input in a datagram, waits for
 * one in return and prints that. Ends with 0 at the end of its input, with 1 and a word about it if anything fails.
 *
 *   wolfssl-client [OPTION …] PORT
 *     --psk IDENTITY KEY           the key in hexadecimal
 *     --certificate CHAIN KEY CA   files in PEM
 *     --suite NAME                 in wolfSSL's spelling; default all
 *     --no-ems                     offers no extended master secret
 *     --max-fragment BYTES         512, 1024, 2048 or 4096
 */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <wolfssl/options.h>
#include <wolfssl/ssl.h>

/* How long it waits for an answer, in seconds. */
#define PATIENCE 20

static const char *identity;
static unsigned char key[64];
static unsigned int key_length;

static void check(int good, const char *what)
{
    if (good)
        return;
    fprintf(stderr, "%s\n", what);
    exit(1);
}

static unsigned int tell_key(WOLFSSL *ssl, const char *hint, char *name, unsigned int name_room,
                             unsigned char *secret, unsigned int room)
{
    (void) ssl;
    (void) hint;
    if (identity == NULL || strlen(identity) >= name_room || key_length > room)
        return 0;
    strcpy(name, identity);
    memcpy(secret, key, key_length);
    return key_length;
}

int main(int count, char **arguments)
{
    struct sockaddr_in server = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    struct timeval patience = { .tv_sec = PATIENCE };
    WOLFSSL_CTX *context;
    WOLFSSL *ssl;
    char line[4096], words[80];
    unsigned int byte;
    int net, result;

    wolfSSL_Init();
    context = wolfSSL_CTX_new(wolfDTLSv1_2_client_method());
    check(context != NULL, "no context");
    for (int at = 1; at < count; at++) {
        const char *option = arguments[at];
        if (!strcmp(option, "--psk") && at + 2 < count) {
            identity = arguments[++at];
            for (const char *text = arguments[++at]; sscanf(text, "%2x", &byte) == 1 && key_length < sizeof key; text += 2)
                key[key_length++] = (unsigned char) byte;
            wolfSSL_CTX_set_psk_client_callback(context, tell_key);
        } else if (!strcmp(option, "--certificate") && at + 3 < count) {
            result = wolfSSL_CTX_use_certificate_chain_file(context, arguments[++at]);
            check(result == WOLFSSL_SUCCESS, "the chain");
            result = wolfSSL_CTX_use_PrivateKey_file(context, arguments[++at], WOLFSSL_FILETYPE_PEM);
            check(result == WOLFSSL_SUCCESS, "the key");
            result = wolfSSL_CTX_load_verify_locations(context, arguments[++at], NULL);
            check(result == WOLFSSL_SUCCESS, "the anchors");
            wolfSSL_CTX_set_verify(context, WOLFSSL_VERIFY_PEER, NULL);
        } else if (!strcmp(option, "--suite") && at + 1 < count) {
            check(wolfSSL_CTX_set_cipher_list(context, arguments[++at]) == WOLFSSL_SUCCESS, "the suite");
        } else if (!strcmp(option, "--no-ems")) {
            check(wolfSSL_CTX_DisableExtendedMasterSecret(context) == WOLFSSL_SUCCESS, "no extended master secret");
        } else if (!strcmp(option, "--max-fragment") && at + 1 < count) {
            unsigned char code = 1;
            for (int size = atoi(arguments[++at]); size > 512; size /= 2)
                code++;
            check(wolfSSL_CTX_UseMaxFragment(context, code) == WOLFSSL_SUCCESS, "the fragment length");
        } else if (option[0] != '-' && server.sin_port == 0) {
            server.sin_port = htons((unsigned short) atoi(option));
        } else {
            fprintf(stderr, "what is %s?\n", option);
            return 2;
        }
    }

    net = socket(AF_INET, SOCK_DGRAM, 0);
    check(net >= 0 && connect(net, (struct sockaddr *) &server, sizeof server) == 0, "the socket");
    setsockopt(net, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    ssl = wolfSSL_new(context);
    check(ssl != NULL, "no session");
    wolfSSL_dtls_set_peer(ssl, &server, sizeof server);
    wolfSSL_set_fd(ssl, net);
    result = wolfSSL_connect(ssl);
    if (result != WOLFSSL_SUCCESS) {
        fprintf(stderr, "the handshake: %s\n", wolfSSL_ERR_error_string(wolfSSL_get_error(ssl, result), words));
        return 1;
    }
    fprintf(stderr, "connected: %s\n", wolfSSL_get_cipher(ssl));

    while (fgets(line, sizeof line, stdin) != NULL) {
        check(wolfSSL_write(ssl, line, (int) strlen(line)) > 0, "sending");
        result = wolfSSL_read(ssl, line, sizeof line);
        check(result > 0, "receiving");
        fwrite(line, 1, (size_t) result, stdout);
        fflush(stdout);
    }
    wolfSSL_shutdown(ssl);
    close(net);
    return 0;
}
