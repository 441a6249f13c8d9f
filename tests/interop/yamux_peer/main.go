// Command yamux_peer is a peer for our sessions, on hashicorp/yamux itself.
//
// It connects or listens, with or without TLS, with or without the upgrade of a reverse connection, and is either side
// of the session. What it then does is its mode:
//
//	serve       accept streams and do what the first line on each says (see serveStream)
//	drive       open streams to a peer that serves so, and check what comes back
//	http-serve  serve HTTP/1.1 on the streams that are accepted
//	http-drive  send HTTP requests, each on a stream, and check the answers
//
// It prints one line per thing that happened and exits with 1 if something was wrong.
package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
)

var (
	connect   = flag.String("connect", "", "address to connect to")
	listen    = flag.String("listen", "", "address to listen on, for one connection")
	ca        = flag.String("ca", "", "use TLS; PEM file with the certificate to trust")
	upgrade   = flag.Bool("upgrade", false, "upgrade an HTTP request to the session first")
	role      = flag.String("role", "client", "side of the session: client or server")
	mode      = flag.String("mode", "serve", "what to do")
	window    = flag.Uint("window", 512*1024, "window of a stream, bytes")
	keepAlive = flag.Duration("keepalive", 15*time.Second, "interval of pings")
	timeout   = flag.Duration("timeout", 10*time.Second, "for a write, and for the answer to a ping")
)

const token = "the-token-of-the-test"

func main() {
	flag.Parse()
	log.SetFlags(0)
	conn, err := carrier()
	check(err)
	config := yamux.DefaultConfig()
	config.MaxStreamWindowSize = uint32(*window)
	config.KeepAliveInterval = *keepAlive
	config.ConnectionWriteTimeout = *timeout
	config.LogOutput = os.Stderr
	var session *yamux.Session
	if *role == "client" {
		session, err = yamux.Client(conn, config)
	} else {
		session, err = yamux.Server(conn, config)
	}
	check(err)
	switch *mode {
	case "serve":
		serve(session)
	case "drive":
		drive(session)
		check(session.Close())
	case "http-serve":
		check(serveHTTP(session))
	case "http-drive":
		driveHTTP(session)
		check(session.Close())
	default:
		log.Fatalf("unknown mode %q", *mode)
	}
	fmt.Println("done")
}

func check(err error) {
	if err != nil {
		log.Fatalf("failed: %v", err)
	}
}

// require ends the program where a condition does not hold.
func require(holds bool, format string, details ...any) {
	if !holds {
		log.Fatalf("failed: "+format, details...)
	}
}

// The carrier ----------------------------------------------------------------------------------------------

func carrier() (net.Conn, error) {
	if *listen != "" {
		return accept()
	}
	conn, err := dial()
	if err != nil || !*upgrade {
		return conn, err
	}
	request := "GET /ccm/v1/reverse HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: reverse-proxy\r\n" +
		"Authorization: Bearer " + token + "\r\n\r\n"
	if _, err := io.WriteString(conn, request); err != nil {
		return nil, err
	}
	reader := bufio.NewReader(conn)
	response, err := http.ReadResponse(reader, nil)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusSwitchingProtocols {
		return nil, fmt.Errorf("not upgraded: %s", response.Status)
	}
	fmt.Println("upgraded")
	return &buffered{conn, reader}, nil
}

func dial() (net.Conn, error) {
	if *ca == "" {
		return net.Dial("tcp", *connect)
	}
	pem, err := os.ReadFile(*ca)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	return tls.Dial("tcp", *connect, &tls.Config{RootCAs: roots, ServerName: "localhost"})
}

func accept() (net.Conn, error) {
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		return nil, err
	}
	fmt.Println("listening", listener.Addr())
	if !*upgrade {
		return listener.Accept()
	}
	upgraded := make(chan net.Conn)
	answer := func(writer http.ResponseWriter, request *http.Request) {
		if request.Header.Get("Upgrade") != "reverse-proxy" || request.URL.Path != "/ccm/v1/reverse" {
			http.Error(writer, "nothing else is here", http.StatusBadRequest)
			return
		}
		if request.Header.Get("Authorization") != "Bearer "+token {
			http.Error(writer, "wrong token", http.StatusUnauthorized)
			return
		}
		conn, buffer, err := writer.(http.Hijacker).Hijack()
		check(err)
		_, err = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: reverse-proxy\r\n\r\n")
		check(err)
		upgraded <- &buffered{conn, buffer.Reader}
	}
	go http.Serve(listener, http.HandlerFunc(answer))
	conn := <-upgraded
	fmt.Println("upgraded")
	return conn, nil
}

// buffered is a connection of which some bytes have been read already.
type buffered struct {
	net.Conn
	reader *bufio.Reader
}

func (b *buffered) Read(into []byte) (int, error) { return b.reader.Read(into) }

// Streams --------------------------------------------------------------------------------------------------

func serve(session *yamux.Session) {
	for {
		stream, err := session.AcceptStream()
		if err != nil {
			fmt.Println("session over:", err)
			return
		}
		go serveStream(session, stream)
	}
}

// serveStream does what the first line says:
//
//	echo      say everything back, until the end
//	sink      read to the end, then answer with the number of bytes and their SHA-256
//	source N  write N bytes, and end
//	hold      read nothing more, for ever
//	goaway    take no more streams, and answer "gone"
//	ping      ping the peer, and answer "pong"
func serveStream(session *yamux.Session, stream *yamux.Stream) {
	defer stream.Close()
	reader := bufio.NewReader(stream)
	line, err := reader.ReadString('\n')
	if err != nil {
		return
	}
	words := strings.Fields(line)
	switch words[0] {
	case "echo":
		io.Copy(stream, reader)
	case "sink":
		hash := sha256.New()
		size, err := io.Copy(hash, reader)
		if err == nil {
			fmt.Fprintf(stream, "%d %x", size, hash.Sum(nil))
		}
	case "source":
		size, _ := strconv.Atoi(words[1])
		stream.Write(pattern(size))
	case "hold":
		select {}
	case "goaway":
		check(session.GoAway())
		io.WriteString(stream, "gone")
	case "ping":
		if _, err := session.Ping(); err == nil {
			io.WriteString(stream, "pong")
		}
	}
}

// pattern gives bytes that are not the same everywhere.
func pattern(size int) []byte {
	data := make([]byte, size)
	for at := range data {
		data[at] = byte(at*7 + at>>9)
	}
	return data
}

func open(session *yamux.Session, command string) *yamux.Stream {
	stream, err := session.OpenStream()
	check(err)
	_, err = io.WriteString(stream, command+"\n")
	check(err)
	return stream
}

func drive(session *yamux.Session) {
	// A held stream has all the window that it can get, and holds nobody up.
	held := open(session, "hold")
	held.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
	written, err := held.Write(pattern(2 << 20))
	require(errors.Is(err, yamux.ErrTimeout), "a held stream took %d bytes: %v", written, err)
	fmt.Println("held after", written+len("hold\n"))

	var all sync.WaitGroup
	for number := 0; number < 20; number++ {
		all.Add(1)
		go func(number int) {
			defer all.Done()
			data := pattern(1<<20 + number)
			stream := open(session, "echo")
			go func() {
				_, err := stream.Write(data)
				check(err)
			}()
			back := make([]byte, len(data))
			_, err := io.ReadFull(stream, back)
			check(err)
			require(bytes.Equal(back, data), "an echo is not what was said")
			check(stream.Close())
		}(number)
	}
	all.Wait()
	fmt.Println("echoed")

	// Half closed: the answer comes after our end.
	stream := open(session, "sink")
	data := pattern(1 << 20)
	_, err = stream.Write(data)
	check(err)
	check(stream.Close())
	answer, err := io.ReadAll(stream)
	check(err)
	expected := fmt.Sprintf("%d %x", len(data), sha256.Sum256(data))
	require(string(answer) == expected, "half closed: %q", answer)
	fmt.Println("half closed")

	for number := 0; number < 50; number++ {
		stream := open(session, fmt.Sprintf("source %d", number*20000))
		data, err := io.ReadAll(stream)
		check(err)
		require(bytes.Equal(data, pattern(number*20000)), "%d bytes of source %d", len(data), number)
		check(stream.Close())
	}
	fmt.Println("read sources")

	_, err = session.Ping()
	check(err)
	stream = open(session, "ping")
	answer, err = io.ReadAll(stream)
	check(err)
	require(string(answer) == "pong", "ping: %q", answer)
	stream.Close()
	fmt.Println("pinged")

	check(held.Close())
	survivor := open(session, "echo")
	stream = open(session, "goaway")
	answer, err = io.ReadAll(stream)
	check(err)
	require(string(answer) == "gone", "goaway: %q", answer)
	stream.Close()
	_, err = session.OpenStream()
	require(errors.Is(err, yamux.ErrRemoteGoAway), "after go away: %v", err)
	_, err = io.WriteString(survivor, "still here")
	check(err)
	back := make([]byte, len("still here"))
	_, err = io.ReadFull(survivor, back)
	check(err)
	survivor.Close()
	fmt.Println("told to go away")
}

// HTTP -----------------------------------------------------------------------------------------------------

func serveHTTP(session *yamux.Session) error {
	mux := http.NewServeMux()
	mux.HandleFunc("/echo", func(writer http.ResponseWriter, request *http.Request) {
		body, err := io.ReadAll(request.Body) // all of it first: this server does not read while it writes
		if err == nil {
			writer.Write(body)
		}
	})
	mux.HandleFunc("/source", func(writer http.ResponseWriter, request *http.Request) {
		size, _ := strconv.Atoi(request.URL.Query().Get("size"))
		writer.Write(pattern(size))
	})
	mux.HandleFunc("/wait", func(writer http.ResponseWriter, request *http.Request) {
		writer.WriteHeader(http.StatusOK)
		writer.(http.Flusher).Flush()
		<-request.Context().Done()
		fmt.Println("request cancelled")
	})
	err := http.Serve(session, mux)
	if session.IsClosed() {
		return nil
	}
	return err
}

func driveHTTP(session *yamux.Session) {
	client := &http.Client{Transport: &http.Transport{
		DialContext: func(context.Context, string, string) (net.Conn, error) { return session.Open() },
	}}
	var all sync.WaitGroup
	for number := 0; number < 30; number++ {
		all.Add(1)
		go func(number int) {
			defer all.Done()
			data := pattern(number * 50000)
			response, err := client.Post("http://test/echo", "application/octet-stream", bytes.NewReader(data))
			check(err)
			back, err := io.ReadAll(response.Body)
			check(err)
			require(bytes.Equal(back, data), "%d bytes of %d came back", len(back), len(data))
		}(number)
	}
	all.Wait()
	fmt.Println("posted")

	ctx, cancel := context.WithCancel(context.Background())
	request, err := http.NewRequestWithContext(ctx, "GET", "http://test/wait", nil)
	check(err)
	response, err := client.Do(request)
	check(err)
	cancel()
	_, err = io.ReadAll(response.Body)
	require(errors.Is(err, context.Canceled), "cancelled: %v", err)
	fmt.Println("cancelled")

	response, err = client.Get("http://test/cancelled")
	check(err)
	body, err := io.ReadAll(response.Body)
	check(err)
	require(string(body) == "1", "the server has seen %s cancelled requests", body)
	fmt.Println("seen")
}
