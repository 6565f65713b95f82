# Completion for bash, written by contrib/completion/generate.py. Install this file as
# /usr/share/bash-completion/completions/pfxhttpd, with a link of the name pfxhttp.

_pfxhttpd() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} command="" option="" word words=""
    COMPREPLY=()
    # bash makes three words of --option=value.
    if [[ $current == "=" ]]; then
        current=""
    elif [[ $previous == "=" ]]; then
        previous=${COMP_WORDS[COMP_CWORD - 2]}
    fi
    for word in "${COMP_WORDS[@]:1:COMP_CWORD - 1}"; do
        if [[ $word == "=" ]]; then continue; fi
        case "$command:$option$word" in
            ":--config") option=--config ;;
            ":--format") option=--format ;;
            ":--config"*) option="" ;;
            ":--format"*) option="" ;;
            ":run") command="run" ;;
            ":check") command="check" ;;
            ":config") command="config" ;;
            ":query") command="query" ;;
            ":status") command="status" ;;
            ":reload") command="reload" ;;
            ":stop") command="stop" ;;
            ":cache") command="cache" ;;
            ":demo") command="demo" ;;
            "cache:purge") command="cache purge" ;;
        esac
    done
    case "$command:$previous" in
        ":--config" | "run:--pidfile" | "run:--config" | "check:--config" | "config:--config" | "query:--config" | "status:--control" | "status:--config" | "reload:--control" | "reload:--config" | "stop:--control" | "stop:--config" | "cache purge:--control" | "cache purge:--config" | "demo:--config")
            compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$current"); return ;;
        ":--format" | "run:--format" | "check:--format" | "config:--format" | "query:--format" | "status:--format" | "reload:--format" | "stop:--format" | "cache purge:--format" | "demo:--format")
            mapfile -t COMPREPLY < <(compgen -W "yaml toml json" -- "$current"); return ;;
        "query:--policy" | "query:--sasl" | "query:--address" | "query:--timeout" | "demo:--port")
            return ;;
        "query:--mechanism")
            mapfile -t COMPREPLY < <(compgen -W "PLAIN XOAUTH2 OAUTHBEARER" -- "$current"); return ;;
    esac
    case "$command" in
        "") words="run check config query status reload stop cache demo --help --config --format --version" ;;
        "run") words="--help --daemon --pidfile --config --format" ;;
        "check") words="--help --strict --connect --migrate --config --format" ;;
        "config") words="--help --config --format" ;;
        "query") words="--help --policy --sasl --mechanism --address --timeout --explain --config --format" ;;
        "status") words="--help --json --watch --control --config --format" ;;
        "reload") words="--help --control --config --format" ;;
        "stop") words="--help --control --config --format" ;;
        "cache") words="purge --help" ;;
        "cache purge") words="--help --control --config --format" ;;
        "demo") words="--help --port --config --format" ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
}
complete -F _pfxhttpd pfxhttpd pfxhttp
