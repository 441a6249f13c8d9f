// Command go_yamux is one side of the yamux benchmarks, on hashicorp/yamux: the load, or the server that Go would be.
//
// The first byte of a stream says what the server does on it: e: say everything back; s: read to the end, then answer
// with a byte; g: send as many bytes as the next 8 say, and end.
package main

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"sort"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
)

const (
	piece = 64 << 10
	chunk = 16 << 20 // bytes of one download
)

func main() {
	listen := flag.String("listen", "", "serve on this address")
	connect := flag.String("connect", "", "load this address")
	scenario := flag.String("scenario", "", "what to do there")
	seconds := flag.Float64("seconds", 3, "for how long")
	flag.Parse()
	config := yamux.DefaultConfig()
	config.MaxStreamWindowSize = 512 << 10
	config.LogOutput = io.Discard
	if *listen != "" {
		listener, err := net.Listen("tcp", *listen)
		check(err)
		for {
			conn, err := listener.Accept()
			check(err)
			session, err := yamux.Server(conn, config)
			check(err)
			go serve(session)
		}
	}
	conn, err := net.Dial("tcp", *connect)
	check(err)
	session, err := yamux.Client(conn, config)
	check(err)
	streams, work := scenarioOf(*scenario)
	run(session, streams, work, 500*time.Millisecond)
	fmt.Println("ready")
	_, err = bufio.NewReader(os.Stdin).ReadString('\n')
	check(err)
	json.NewEncoder(os.Stdout).Encode(run(session, streams, work, time.Duration(*seconds*float64(time.Second))))
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func serve(session *yamux.Session) {
	for {
		stream, err := session.AcceptStream()
		if err != nil {
			return
		}
		go func() {
			defer stream.Close()
			command := make([]byte, 1)
			if _, err := io.ReadFull(stream, command); err != nil {
				return
			}
			switch command[0] {
			case 'e':
				io.Copy(stream, stream)
			case 's':
				io.Copy(io.Discard, stream)
				stream.Write(command)
			case 'g':
				size := make([]byte, 8)
				io.ReadFull(stream, size)
				data := make([]byte, piece)
				for left := int64(binary.BigEndian.Uint64(size)); left > 0; left -= piece {
					stream.Write(data[:min64(left, piece)])
				}
			}
		}()
	}
}

func min64(a, b int64) int64 {
	if a < b {
		return a
	}
	return b
}

// Result: units of work, the seconds that they took, and of round trips the microseconds that one takes.
type Result struct {
	Units   float64 `json:"units"`
	Seconds float64 `json:"seconds"`
	P50     float64 `json:"p50_us"`
	P99     float64 `json:"p99_us"`
}

// work does something over and over until it is over; it gives the units done, and how long each round trip took.
type work func(session *yamux.Session, over func() bool) (float64, []float64)

func scenarioOf(name string) (int, work) {
	switch name {
	case "up":
		return 1, up
	case "up-100":
		return 100, up
	case "down":
		return 1, down
	case "down-100":
		return 100, down
	case "trip":
		return 1, trip
	case "trip-100":
		return 100, trip
	case "open":
		return 1, open
	case "open-100":
		return 100, open
	}
	log.Fatalf("unknown scenario %q", name)
	return 0, nil
}

func run(session *yamux.Session, streams int, work work, duration time.Duration) Result {
	var all sync.WaitGroup
	var lock sync.Mutex
	var result Result
	var times []float64
	began := time.Now()
	over := func() bool { return time.Since(began) > duration }
	for number := 0; number < streams; number++ {
		all.Add(1)
		go func() {
			defer all.Done()
			units, trips := work(session, over)
			lock.Lock()
			defer lock.Unlock()
			result.Units += units
			times = append(times, trips...)
		}()
	}
	all.Wait()
	result.Seconds = time.Since(began).Seconds()
	if len(times) > 0 {
		sort.Float64s(times)
		result.P50, result.P99 = times[len(times)/2], times[len(times)*99/100]
	}
	return result
}

func start(session *yamux.Session, command ...byte) *yamux.Stream {
	stream, err := session.OpenStream()
	check(err)
	_, err = stream.Write(command)
	check(err)
	return stream
}

// up: MiB.
func up(session *yamux.Session, over func() bool) (float64, []float64) {
	stream := start(session, 's')
	data, sent := make([]byte, piece), 0
	for !over() {
		size, err := stream.Write(data)
		check(err)
		sent += size
	}
	check(stream.Close())
	_, err := io.ReadFull(stream, data[:1])
	check(err)
	return float64(sent) / (1 << 20), nil
}

// down: MiB.
func down(session *yamux.Session, over func() bool) (float64, []float64) {
	received := int64(0)
	data := make([]byte, piece)
	for !over() {
		stream := start(session, append([]byte{'g'}, binary.BigEndian.AppendUint64(nil, chunk)...)...)
		for left := int64(chunk); left > 0; {
			size, err := stream.Read(data)
			check(err)
			left -= int64(size)
			received += int64(size)
			if over() {
				break
			}
		}
		check(stream.Close())
	}
	return float64(received) / (1 << 20), nil
}

// trip: a byte there and back.
func trip(session *yamux.Session, over func() bool) (float64, []float64) {
	stream := start(session, 'e')
	defer stream.Close()
	data, times := []byte{1}, []float64(nil)
	for !over() {
		times = append(times, there(stream, data))
	}
	return float64(len(times)), times
}

// open: a stream for a byte there and back.
func open(session *yamux.Session, over func() bool) (float64, []float64) {
	data, times := []byte{1}, []float64(nil)
	for !over() {
		began := time.Now()
		stream := start(session, 'e')
		there(stream, data)
		check(stream.Close())
		times = append(times, float64(time.Since(began).Nanoseconds())/1000)
	}
	return float64(len(times)), times
}

func there(stream *yamux.Stream, data []byte) float64 {
	began := time.Now()
	_, err := stream.Write(data)
	check(err)
	_, err = io.ReadFull(stream, data)
	check(err)
	return float64(time.Since(began).Nanoseconds()) / 1000
}
