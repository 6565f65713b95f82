// An example backend in Go: maps in a JSON file, which is read for each request. It needs only Go's standard library.
//
//	echo '{"mailboxes": {"alice@example.com": "example.com/alice/"}}' > maps.json
//	go run maps.go 127.0.0.1:8080 maps.json
//
// It answers the /lookup of contrib/config/pfxhttp.yml and contrib/config/virtual-mail.yml. A key that is not in the file is
// answered with 200 and null, and a file that cannot be read with 503, so that the mail waits. The keys in the file are in lower
// case, because Postfix looks up some addresses as the mail client has written them.
package main

import (
	"encoding/json"
	"log"
	"net/http"
	"os"
	"strings"
)

type object map[string]any

func respond(w http.ResponseWriter, status int, answer object) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(answer)
}

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: maps ADDRESS:PORT FILE")
	}
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost || r.URL.Path != "/lookup" {
			respond(w, http.StatusNotFound, object{"error": "there is nothing here"})
			return
		}
		var question struct{ Map, Key *string }
		err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(&question)
		if err != nil || question.Map == nil || question.Key == nil {
			respond(w, http.StatusBadRequest, object{"error": "a JSON object with map and key was expected"})
			return
		}
		var maps map[string]map[string]string
		file, err := os.ReadFile(os.Args[2])
		if err == nil {
			err = json.Unmarshal(file, &maps)
		}
		if err != nil {
			log.Print(err)
			respond(w, http.StatusServiceUnavailable, object{"error": "the maps cannot be read"})
			return
		}
		var result any
		if value, found := maps[*question.Map][strings.ToLower(*question.Key)]; found {
			result = value
		}
		respond(w, http.StatusOK, object{"data": object{"result": result}})
	})
	log.Fatal(http.ListenAndServe(os.Args[1], nil))
}
