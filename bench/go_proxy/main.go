// A reverse proxy on Go's net/http that does what ccmproxy does for a request, with plain structs: the yardstick
// "go" of the benchmarks. It authenticates the client, decodes the body for model, messages and metadata, takes the
// session from the metadata, replaces the Authorization, streams the answer and counts tokens from its events.
package main

import (
	"bufio"
	"bytes"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"flag"
	"io"
	"log"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"
)

type requestBody struct {
	Model    string            `json:"model"`
	Messages []json.RawMessage `json:"messages"`
	Metadata struct {
		UserID string `json:"user_id"`
	} `json:"metadata"`
	Stream bool `json:"stream"`
}

type userID struct {
	SessionID string `json:"session_id"`
}

type usage struct {
	InputTokens         int64 `json:"input_tokens"`
	OutputTokens        int64 `json:"output_tokens"`
	CacheReadTokens     int64 `json:"cache_read_input_tokens"`
	CacheCreationTokens int64 `json:"cache_creation_input_tokens"`
}

type event struct {
	Type    string `json:"type"`
	Message *struct {
		Model string `json:"model"`
		Usage usage  `json:"usage"`
	} `json:"message"`
	Usage *usage `json:"usage"`
}

type totalsKey struct{ model, session string }

type proxy struct {
	upstream *url.URL
	client   *http.Transport
	token    []byte
	key      string
	mutex    sync.Mutex
	totals   map[totalsKey]usage
}

// Header fields that belong to one connection (RFC 9110 section 7.6.1), and those that carry the client's own keys.
var notForwarded = map[string]bool{
	"Connection": true, "Keep-Alive": true, "Proxy-Authenticate": true, "Proxy-Authorization": true, "Te": true,
	"Trailer": true, "Transfer-Encoding": true, "Upgrade": true, "Authorization": true, "X-Api-Key": true,
	"Accept-Encoding": true,
}

func fail(w http.ResponseWriter, status int, kind, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]any{"type": "error", "error": map[string]string{"type": kind, "message": message}})
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	token, found := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !found || subtle.ConstantTimeCompare([]byte(token), p.token) != 1 {
		fail(w, 401, "authentication_error", "invalid api key")
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 64<<20))
	if err != nil {
		fail(w, 400, "invalid_request_error", "the body cannot be read")
		return
	}
	var request requestBody
	var user userID
	if len(body) > 0 {
		if err := json.Unmarshal(body, &request); err != nil {
			fail(w, 400, "invalid_request_error", "the body is not JSON")
			return
		}
		json.Unmarshal([]byte(request.Metadata.UserID), &user)
	}
	target := *p.upstream
	target.Path, target.RawQuery = r.URL.Path, r.URL.RawQuery
	forwarded, err := http.NewRequestWithContext(r.Context(), r.Method, target.String(), bytes.NewReader(body))
	if err != nil {
		fail(w, 400, "invalid_request_error", "the request cannot be forwarded")
		return
	}
	for name, values := range r.Header {
		if !notForwarded[name] {
			forwarded.Header[name] = values
		}
	}
	forwarded.Header.Set("Authorization", "Bearer "+p.key)
	response, err := p.client.RoundTrip(forwarded)
	if err != nil {
		fail(w, 502, "api_error", "the upstream cannot be reached")
		return
	}
	defer response.Body.Close()
	for name, values := range response.Header {
		if !notForwarded[name] {
			w.Header()[name] = values
		}
	}
	var counted usage
	if strings.HasPrefix(response.Header.Get("Content-Type"), "text/event-stream") {
		w.WriteHeader(response.StatusCode)
		counted, err = relayEvents(w, response.Body)
	} else {
		var answer []byte
		if answer, err = io.ReadAll(response.Body); err == nil {
			var message struct {
				Usage usage `json:"usage"`
			}
			json.Unmarshal(answer, &message)
			counted = message.Usage
			w.WriteHeader(response.StatusCode)
			_, err = w.Write(answer)
		}
	}
	p.count(totalsKey{request.Model, user.SessionID}, counted)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
}

// relayEvents passes a stream on piece by piece and decodes each event's data for its usage.
func relayEvents(w http.ResponseWriter, body io.Reader) (usage, error) {
	flusher := w.(http.Flusher)
	var counted usage
	var line []byte
	reader := bufio.NewReaderSize(body, 32<<10)
	for {
		if _, err := reader.Peek(1); err == io.EOF {
			return counted, nil
		} else if err != nil {
			return counted, err
		}
		piece, _ := reader.Peek(reader.Buffered())
		if _, err := w.Write(piece); err != nil {
			return counted, err
		}
		flusher.Flush()
		for rest := piece; len(rest) > 0; {
			end := bytes.IndexByte(rest, '\n')
			if end < 0 {
				line = append(line, rest...)
				break
			}
			line = append(line, rest[:end]...)
			rest = rest[end+1:]
			if data, found := bytes.CutPrefix(line, []byte("data: ")); found {
				var decoded event
				if json.Unmarshal(data, &decoded) == nil {
					if decoded.Message != nil {
						counted = decoded.Message.Usage
					}
					if decoded.Usage != nil {
						counted = *decoded.Usage
					}
				}
			}
			line = line[:0]
		}
		reader.Discard(len(piece))
	}
}

func (p *proxy) count(key totalsKey, counted usage) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	total := p.totals[key]
	total.InputTokens += counted.InputTokens
	total.OutputTokens += counted.OutputTokens
	total.CacheReadTokens += counted.CacheReadTokens
	total.CacheCreationTokens += counted.CacheCreationTokens
	p.totals[key] = total
}

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "address to listen on")
	upstream := flag.String("upstream", "", "URL of the upstream")
	ca := flag.String("ca", "", "PEM file of a CA to trust")
	token := flag.String("token", "", "token of the client")
	key := flag.String("key", "", "token for the upstream")
	flag.Parse()
	target, err := url.Parse(*upstream)
	if err != nil {
		log.Fatal(err)
	}
	transport := &http.Transport{
		MaxIdleConns: 0, MaxIdleConnsPerHost: 4096, IdleConnTimeout: time.Minute, DisableCompression: true,
		TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{},
	}
	if *ca != "" {
		pem, err := os.ReadFile(*ca)
		if err != nil {
			log.Fatal(err)
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(pem)
		transport.TLSClientConfig = &tls.Config{RootCAs: roots, ClientSessionCache: tls.NewLRUClientSessionCache(64)}
	}
	handler := &proxy{upstream: target, client: transport, token: []byte(*token), key: *key, totals: map[totalsKey]usage{}}
	server := &http.Server{Addr: *listen, Handler: handler, ReadHeaderTimeout: 30 * time.Second, IdleTimeout: 5 * time.Minute}
	log.Fatal(server.ListenAndServe())
}
