# fish completion for tombolo(1)

function __tombolo_at --argument-names command
    set -l words (commandline -opc)
    contains -- $command $words
end

# Whether a device comes next: of `config show` and `serial trace` none does.
function __tombolo_of_device
    __tombolo_at config; and return 1
    __tombolo_at serial; and return 1
    __tombolo_at show; or __tombolo_at remove; or __tombolo_at test; or __tombolo_at trace; or __tombolo_at send; or __tombolo_at tail; or __tombolo_at usage; or __tombolo_at explain
end

# The names of devices, roles, ports, units or keys; of the configuration on the line.
function __tombolo_names --argument-names what
    set -l words (commandline -opc)
    set -l config
    if set -l at (contains -i -- --config $words)
        set config --config $words[(math $at + 1)]
    end
    tombolo $config complete $what 2>/dev/null
end

complete -c tombolo -f
complete -c tombolo -l config -r -F -d 'the configuration'
complete -c tombolo -l json -d 'machine-readable output'
complete -c tombolo -l help -d help
complete -c tombolo -l version -d version

complete -c tombolo -n __fish_use_subcommand -a run -d 'the daemon, in the foreground'
complete -c tombolo -n __fish_use_subcommand -a check -d 'look at everything that could be wrong'
complete -c tombolo -n __fish_use_subcommand -a init -d 'name the upstream broker'
complete -c tombolo -n __fish_use_subcommand -a device -d 'the devices and their keys'
complete -c tombolo -n __fish_use_subcommand -a send -d 'a command to a device'
complete -c tombolo -n __fish_use_subcommand -a mailbox -d 'the commands held for devices'
complete -c tombolo -n __fish_use_subcommand -a tail -d 'readings as they come'
complete -c tombolo -n __fish_use_subcommand -a trace -d 'decrypted messages of a device or the uplink'
complete -c tombolo -n __fish_use_subcommand -a status -d 'uplink, journal, devices, counters'
complete -c tombolo -n __fish_use_subcommand -a usage -d 'what each device has sent within 30 days'
complete -c tombolo -n __fish_use_subcommand -a reload -d 'apply the configuration files'
complete -c tombolo -n __fish_use_subcommand -a import -d 'a configuration of what another program had'
complete -c tombolo -n __fish_use_subcommand -a acl -d 'why a reading would pass, or not'
complete -c tombolo -n __fish_use_subcommand -a queue -d 'what waits for the broker'
complete -c tombolo -n __fish_use_subcommand -a clock -d 'whether the clock is believed'
complete -c tombolo -n __fish_use_subcommand -a cert -d 'the certificates that renew themselves'
complete -c tombolo -n __fish_use_subcommand -a update -d 'newer firmware of this gateway'
complete -c tombolo -n __fish_use_subcommand -a health -d 'whether the gateway works'
complete -c tombolo -n __fish_use_subcommand -a serial -d 'serial ports, and what goes over one'
complete -c tombolo -n __fish_use_subcommand -a config -d 'the configuration in force; try a new one'
complete -c tombolo -n __fish_use_subcommand -a support-bundle -d 'a file for support'
complete -c tombolo -n __fish_use_subcommand -a backup -d 'write configuration, devices and credentials into a file'
complete -c tombolo -n __fish_use_subcommand -a restore -d 'put a backup in their place'
complete -c tombolo -n __fish_use_subcommand -a firstboot -d 'give a copied card an identity of its own'
complete -c tombolo -n __fish_use_subcommand -a decommission -d 'take this gateway out of service'
complete -c tombolo -n __fish_use_subcommand -a help -d 'the help of a command'
complete -c tombolo -n __fish_use_subcommand -a demo -d 'the whole path on this machine alone'

complete -c tombolo -n '__tombolo_at init' -l url -r -d 'the broker'
complete -c tombolo -n '__tombolo_at init' -l ca-file -r -F -d 'its CA'
complete -c tombolo -n '__tombolo_at init' -l certificate-file -r -F -d 'our certificate'
complete -c tombolo -n '__tombolo_at init' -l key-file -r -F -d 'its key'
complete -c tombolo -n '__tombolo_at init' -l username -r -d 'name at the broker'
complete -c tombolo -n '__tombolo_at init' -l password-file -r -F -d 'its password'
complete -c tombolo -n '__tombolo_at init' -l id -r -d 'id of this gateway'
complete -c tombolo -n '__tombolo_at init' -l insecure -d 'accept mqtt://'
complete -c tombolo -n '__tombolo_at init' -l force -d 'over an earlier init'
complete -c tombolo -n '__tombolo_at check' -l offline -d 'leave the network out'
complete -c tombolo -n '__tombolo_at check' -l security -d 'what could be abused'
complete -c tombolo -n '__tombolo_at status' -l sessions -d 'the DTLS sessions'
complete -c tombolo -n '__tombolo_at demo' -l seconds -r -d 'end by itself'
complete -c tombolo -n '__tombolo_at device' -a 'add list show set enable disable rekey key import keygen remove test'
complete -c tombolo -n '__tombolo_at device' -l role -x -a '(__tombolo_names roles)' -d 'its role'
complete -c tombolo -n '__tombolo_at device' -l psk -d 'its key'
complete -c tombolo -n '__tombolo_at device' -l psk-identity -r -d 'its identity'
complete -c tombolo -n '__tombolo_at device' -l password -r -d 'its password for MQTT'
complete -c tombolo -n '__tombolo_at device' -l mqtt-username -r -d 'its MQTT user name'
complete -c tombolo -n '__tombolo_at device' -l certificate-uri -x -d 'a URI of its certificate'
complete -c tombolo -n '__tombolo_at device' -l certificate-dns -x -d 'a DNS name of its certificate'
complete -c tombolo -n '__tombolo_at device' -l certificate-cn -x -d 'the common name of its certificate'
complete -c tombolo -n '__tombolo_at device' -l certificate-issuer -x -d 'the CA that issued it'
complete -c tombolo -n '__tombolo_at device' -l public-key -r -d 'its public key, or sha256: and its hash'
complete -c tombolo -n '__tombolo_at device' -l jwt-key -r -d 'a public key for tokens'
complete -c tombolo -n '__tombolo_at device' -l key-age -d 'the age of each key'
complete -c tombolo -n '__tombolo_at device' -l parent -x -d 'the device that it is behind'
complete -c tombolo -n '__tombolo_at device' -l tag -x -d 'name=value, for topics'
complete -c tombolo -n '__tombolo_at device' -l offline-after -x -d 'silence until it is offline'
complete -c tombolo -n '__tombolo_at device' -l overlap -x -d 'take the key before too, for so long'
complete -c tombolo -n '__tombolo_at device' -l until -x -d 'a date'
complete -c tombolo -n '__tombolo_at device' -l kind -x -a 'psk psk-hex password jwt' -d 'what each gets'
complete -c tombolo -n '__tombolo_at device' -l keys -r -d 'the folder for private keys'
complete -c tombolo -n '__tombolo_at device' -l label -r -d 'a few words'
complete -c tombolo -n '__tombolo_at device' -l key -d 'show its key'
complete -c tombolo -n '__tombolo_at device' -l path -r -d 'the path of a test'
complete -c tombolo -n '__tombolo_at device' -l dry-run -d 'send nothing'
complete -c tombolo -n '__tombolo_at send' -l method -x -a 'GET POST PUT DELETE FETCH PATCH IPATCH'
complete -c tombolo -n '__tombolo_at send' -l wait -r -d 'how long to wait for the answer'
complete -c tombolo -n '__tombolo_at send' -l content-format -r -d 'of the payload'
complete -c tombolo -n '__tombolo_at mailbox' -a 'list show drop'
complete -c tombolo -n '__tombolo_at tail' -l last -r -d 'so many from before'
complete -c tombolo -n '__tombolo_at trace' -a uplink
complete -c tombolo -n '__tombolo_at trace' -l pcap -r -F -d 'a file for Wireshark'
complete -c tombolo -n '__tombolo_at trace' -l payload -d 'with payloads'
complete -c tombolo -n '__tombolo_at import' -a mosquitto
complete -c tombolo -n '__tombolo_at import' -l password-file -r -d 'its password_file'
complete -c tombolo -n '__tombolo_at import' -l acl-file -r -d 'its acl_file'
complete -c tombolo -n '__tombolo_at import' -l conf -r -d 'its mosquitto.conf'
complete -c tombolo -n '__tombolo_at import' -l output -r -d 'the folder for the files'
complete -c tombolo -n '__tombolo_at acl' -l content-format -x -d 'content format of the payload'
complete -c tombolo -n '__tombolo_at acl' -l bytes -x -d 'bytes of the payload'
complete -c tombolo -n '__tombolo_at acl' -l payload -x -d 'what a filter is asked about'
complete -c tombolo -n '__tombolo_at acl' -l retain -d 'a publish with RETAIN'
complete -c tombolo -n '__tombolo_at acl' -a 'explain test POST PUT DELETE publish subscribe command'
complete -c tombolo -n '__tombolo_at queue' -a 'verify import rejected list retry drop export skip'
complete -c tombolo -n '__tombolo_at queue' -l all -d 'all of them'
complete -c tombolo -n '__tombolo_at clock' -a 'trust reset'
complete -c tombolo -n '__tombolo_at cert' -a 'status renew enroll csr install probe rollback history'
complete -c tombolo -n '__tombolo_at cert' -l wait -d 'until the next one is in use'
complete -c tombolo -n '__tombolo_at cert' -l force -d 'rollback without a proof'
complete -c tombolo -n '__tombolo_at cert' -l cancel -d 'take an enrolment back'
complete -c tombolo -n '__tombolo_at serial' -a 'list trace relearn'
complete -c tombolo -n '__tombolo_at update' -a 'check download apply rollback history hold release denied list add clear devices verify'
complete -c tombolo -n '__tombolo_at update' -l resume -r -d 'the class whose stopped version goes on'
complete -c tombolo -n '__tombolo_at update' -l no-wait -d 'return once it is begun'
complete -c tombolo -n '__tombolo_at update' -l in-window -d 'only in the maintenance window'
complete -c tombolo -n '__tombolo_at health' -l wait -r -d 'until it works'
complete -c tombolo -n '__tombolo_at health' -l steady -r -d 'without a break for'
complete -c tombolo -n '__tombolo_at update' -l root -r -F -d 'the root.json that gateways have'
complete -c tombolo -n '__tombolo_at serial' -l baud -r -d 'its rate'
complete -c tombolo -n '__tombolo_at serial' -l file -r -F -d 'instead of the screen'
complete -c tombolo -n '__tombolo_at serial' -l max-bytes -r -d 'of one file'
complete -c tombolo -n '__tombolo_at serial' -l keep -r -d 'so many full files'
complete -c tombolo -n '__tombolo_of_device' -a '(__tombolo_names devices)'
complete -c tombolo -n '__tombolo_at relearn' -a '(__tombolo_names units)'
complete -c tombolo -n '__tombolo_at config; and __tombolo_at show' -a '(__tombolo_names keys)'
complete -c tombolo -n '__tombolo_at trace' -a '(__tombolo_names ports)'
complete -c tombolo -n '__tombolo_at config' -a 'show apply confirm revert migrate'
complete -c tombolo -n '__tombolo_at config' -l changed -d 'only what is not the default'
complete -c tombolo -n '__tombolo_at apply' -F
complete -c tombolo -n '__tombolo_at config' -l as -r -d 'its name in conf.d'
complete -c tombolo -n '__tombolo_at config' -l main -d 'in place of the main file'
complete -c tombolo -n '__tombolo_at config' -l accept-removal -d 'though something stops working'
complete -c tombolo -n '__tombolo_at config' -l confirm -r -d 'go back after this time'
complete -c tombolo -n '__tombolo_at config' -l dry-run -d 'only print it'
complete -c tombolo -n '__tombolo_at support-bundle' -l hide-names -d 'without user names and device ids'
complete -c tombolo -n '__tombolo_at support-bundle' -l offline -d 'leave the network out'
complete -c tombolo -n '__tombolo_at support-bundle' -l max-bytes -x -d 'at most so many'
complete -c tombolo -n '__tombolo_at backup' -F
complete -c tombolo -n '__tombolo_at restore' -F
complete -c tombolo -n '__tombolo_at restore' -l take-id -d 'become the gateway of the backup'
complete -c tombolo -n '__tombolo_at restore' -l state-only -d 'leave the configuration out'
complete -c tombolo -n '__tombolo_at firstboot' -l mark -d 'the next boot makes an identity'
complete -c tombolo -n '__tombolo_at decommission' -l yes -d 'confirm it'
complete -c tombolo -n '__tombolo_at decommission' -l offline -d 'leave the broker out'
complete -c tombolo -n '__tombolo_at decommission' -l discard -d 'give up what was not delivered'
