<?php

namespace TokensModel;

/** Which model holds tokens: an application may have one of its own. */
final class Registry
{
    private static string $model = IssuedToken::class;

    public static function personalAccessTokenModel(): string
    {
        return self::$model;
    }

    public static function usePersonalAccessTokenModel(string $model): void
    {
        self::$model = $model;
    }
}
