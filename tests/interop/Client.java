// Sends `METHOD PATH` requests to the server of the first argument by Java's HttpClient, which
// offers an upgrade to HTTP/2 with each of them, and prints the status of each response. A POST has
// a body of 20,000 bytes.

import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublisher;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.time.Duration;

public class Client {
    public static void main(String[] args) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        for (int index = 1; index < args.length; index++) {
            String[] words = args[index].split(" ");
            String body = words[0].equals("POST") ? "x".repeat(20_000) : "";
            BodyPublisher publisher =
                body.isEmpty() ? BodyPublishers.noBody() : BodyPublishers.ofString(body);
            HttpRequest request = HttpRequest.newBuilder(URI.create(args[0] + words[1]))
                .method(words[0], publisher)
                .timeout(Duration.ofSeconds(20))
                .build();
            HttpResponse<String> response = client.send(request, BodyHandlers.ofString());
            System.out.println(response.statusCode() + " " + response.body().trim());
        }
    }
}
